"""Weights from file to model: our own snapshots, and what one stage hands to the next."""
