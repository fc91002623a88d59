"""Photos or posed views of an object -> an asset."""
