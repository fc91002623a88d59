"""Constants that all backends of the rasterizer share: those of 3D Gaussian Splatting (Kerbl et al. 2023)."""

NEAR = 0.01
"""Camera z in world units; Gaussians whose centre is nearer are invisible."""
BLUR = 0.3
"""Square pixels added to the variances of a projected Gaussian, which keep it at least a pixel wide."""
MIN_ALPHA = 1 / 255
"""A Gaussian's alpha below it counts as nothing."""
MAX_ALPHA = 0.999
"""The most that one Gaussian covers, so that what lies behind it keeps a gradient."""
