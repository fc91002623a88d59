"""What is trained, one file a model."""
