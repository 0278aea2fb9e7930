"""Files on disk to batches by step."""
