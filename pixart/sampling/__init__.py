"""From prompts to pictures, and what shows them: a grid and a page."""

from pixart.sampling.pipeline import Pipeline

__all__ = ["Pipeline"]
