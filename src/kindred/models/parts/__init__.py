"""What several methods are made of: chunks of a batch, the momentum copy, the keys' splits, neighbours, contexts."""
