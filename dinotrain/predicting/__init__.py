"""From images to answers: a network that is asked in batches, and the forms its answers take."""
