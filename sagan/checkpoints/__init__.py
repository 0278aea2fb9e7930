"""Saves a run's state, and opens it again."""
