"""Samples to numbers, with everything that decides them."""
