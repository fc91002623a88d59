"""Models that generate views: the mini models, and the released Stable Video Diffusion of V3D."""
