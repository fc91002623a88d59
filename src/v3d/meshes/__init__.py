"""Triangle meshes: files, rendering."""
