"""From files on disk to batches by step."""
