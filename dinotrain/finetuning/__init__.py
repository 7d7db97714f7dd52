"""Training a classifier on a backbone: a linear head on frozen features, or the whole network."""
