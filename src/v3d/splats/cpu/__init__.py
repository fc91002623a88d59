"""The CPU rasterizer of 3D Gaussians: Numba kernels behind one differentiable function.

    project -> sort by depth -> list the tiles of each Gaussian -> fill the tiles -> composite

`rasterizer` calls the kernels in this order. The gradient of a Gaussian goes back through two of them:
`compositing.composite_backward` from the image to its alpha, colour and depth in every tile, and
`projection.project_backward` from their sums to its mean, quaternion, scales and opacity. Autograd of
`v3d.splats.reference` says in 40 lines what both must give.

The first call compiles the kernels (about ten seconds, then cached on disk); `warmup` does it visibly.
"""

from v3d.splats.cpu.rasterizer import rasterize_cpu, warmup

__all__ = ["rasterize_cpu", "warmup"]
