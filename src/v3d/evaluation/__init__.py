"""Protocols, metrics and reports: how the product is measured. One file an evaluation."""
