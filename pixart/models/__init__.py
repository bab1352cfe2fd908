"""The transformer: a denoiser of latents told about text, class, size and time."""
