"""Tars of samples: their index, and reading them from a disk or from an address."""
