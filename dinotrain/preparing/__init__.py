"""Any set of images as tar shards."""
