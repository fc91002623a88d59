"""Networks that are not diffusion models: PixelNeRF, the VAE, and frozen feature networks."""
