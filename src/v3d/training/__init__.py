"""Recipes, what the models learn from, and the loop that trains them."""
