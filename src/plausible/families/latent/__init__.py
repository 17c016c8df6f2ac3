"""p(x) as an integral over latent variables."""
