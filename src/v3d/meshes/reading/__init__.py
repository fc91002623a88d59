"""Mesh files of other programs, as the arrays of one mesh with one texture."""
