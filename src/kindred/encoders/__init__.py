"""Encoders: inputs [B, ...] -> features [B, F]. Any module with the attribute `num_features` (F) can stand in."""
