"""Backbones with a linear head on top: what tells the classes of an image."""
