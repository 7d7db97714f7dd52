"""Train vision transformers without labels, from one CPU to a GPU cluster."""

__version__ = "0.1.0"
