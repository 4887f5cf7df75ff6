"""Thin observers of a training, which leave its numbers alone; what they log is computed in `kindred.evaluation`."""
