"""Which rows form global batch k, for any k at once."""
