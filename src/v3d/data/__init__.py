"""Meshes -> training data, and what reads it."""
