"""What a run leaves for itself, and how it is opened again."""
