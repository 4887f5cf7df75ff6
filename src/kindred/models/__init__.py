"""The methods, one file each; `contrastive` is what they share."""
