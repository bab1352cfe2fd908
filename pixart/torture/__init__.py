"""Torture: runs that are killed, cut off and starved at every moment must come out as if nothing had happened."""
