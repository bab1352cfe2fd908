"""The frozen encoders: captions to text states, images to latents; each carries a fingerprint of who it is."""
