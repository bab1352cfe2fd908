"""The embedded data set: coloured shapes with captions, drawn as they are read."""
