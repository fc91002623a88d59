"""The CPU rasterizer of 3D Gaussians: Numba kernels behind one differentiable function.

    project -> sort by depth -> list the tiles of each Gaussian -> fill the tiles -> composite

The first call compiles the kernels (about ten seconds, then cached on disk); `warmup` does it visibly.
"""

from v3d.splats.cpu.rasterizer import rasterize_cpu, warmup

__all__ = ["rasterize_cpu", "warmup"]
