"""Networks that are no diffusion models."""
