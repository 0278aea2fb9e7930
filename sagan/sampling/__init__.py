"""Images and attention maps from a trained network."""
