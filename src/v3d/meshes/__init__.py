"""Triangle meshes: their files and their rendering."""
