"""Kindred: contrastive representation learning, exact on any number of devices."""
