"""3D Gaussians: rendering, fitting and files."""
