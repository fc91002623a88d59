"""A viewer of Gaussians and meshes in one HTML file, which opens from the disk without a network."""
