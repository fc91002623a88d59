"""Shared Numba kit of the CPU kernels."""
