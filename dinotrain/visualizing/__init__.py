"""What a backbone sees in images: pictures, and a page to ask it."""
