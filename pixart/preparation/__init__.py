"""Offline jobs over data."""
