"""What moves the weights: LARS, which parameters decay, and the schedule of the learning rate."""
