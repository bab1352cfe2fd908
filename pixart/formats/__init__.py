"""Weights from file to model and to file again, and what one stage hands to the next."""

from pixart.formats.reading import load, read
from pixart.formats.weights import Weights
from pixart.formats.writing import write

__all__ = ["Weights", "load", "read", "write"]
