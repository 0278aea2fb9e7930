"""Batches of a test."""

from sagan.data.pipeline import batches


def take(count, config, source, *args):
    """The first batches of a source."""
    stream = batches(config, source, *args)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found
