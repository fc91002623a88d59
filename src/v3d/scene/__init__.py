"""A few posed photos of a scene -> new views along a camera path, and Gaussians (the paper's third part)."""
