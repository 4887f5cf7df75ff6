"""Where metrics go: metrics.csv, pictures, W&B."""
