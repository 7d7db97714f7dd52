"""What can be told of a set of images before training on it: a survey of its files, its crops, its throughput."""
