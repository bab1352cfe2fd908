"""PixArt-alpha, trained in three stages: from an image and its caption (``data``) to a sample (``sampling``)."""
