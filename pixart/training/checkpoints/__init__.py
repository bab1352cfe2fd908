"""Checkpoints: what a run keeps to go on, written beside training and read by any number of processes."""
