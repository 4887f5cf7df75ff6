"""Texts: sources, their tokens, and views of them."""
