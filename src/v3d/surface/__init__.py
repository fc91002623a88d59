"""Surfaces from views: silhouettes -> visual hull -> fitted signed distance field -> mesh.

In this order: `carving` (with `silhouette`), `fit` (with `settings`, `losses`, `regularize` and `render`),
`extract` (with `unseen`). All work on the `Grid` of `grid`.
"""
