"""p(x) as the end of a gradual denoising."""
