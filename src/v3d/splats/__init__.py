"""3D Gaussians (Kerbl et al. 2023): rendering, fitting and files.

`rasterize` renders, by `cpu` (Numba) or `gpu` (gsplat); `reference` defines in plain torch what they compute.
`initial` -> `fit` (with `densify` and `loss`) makes Gaussians of views; `files` keeps them.
"""
