"""Procedural objects and textures: made by rule and chance, so nobody owns them."""
