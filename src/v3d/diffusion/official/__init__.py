"""The released networks: their files, their layout, their classes."""
