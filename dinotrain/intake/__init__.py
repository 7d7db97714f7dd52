"""Images from strangers: decoded within limits, from bytes, base64 or URLs."""
