"""Estimates of memory and FLOPs for hardware you don't have."""
