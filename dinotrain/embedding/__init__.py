"""Features of many images in one file: extracted piece by piece, joined, searched."""
