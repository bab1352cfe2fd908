"""The trainer: from batches to weights, on one process or many, interrupted or not."""
