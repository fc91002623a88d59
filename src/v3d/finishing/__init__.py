"""What a mesh gets before it leaves: size, levels of detail, quads, baked maps, a base, the print report."""
