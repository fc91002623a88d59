"""Files of Gaussians, one module a format."""
