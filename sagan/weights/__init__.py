"""Weights in and out: files of other projects, and ours for others."""
