"""Numbers about images: what a model drew, against what it was asked for."""
