"""Textures of meshes, from posed views."""
