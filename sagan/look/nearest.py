"""The training images that are nearest to samples: has the generator memorised?"""

from collections.abc import Sequence

from sagan.export import Opened
from sagan.look.picture import Sheet
from sagan.schema import ConfigError


def neighbours(opened: Opened, *, seed: int, classes: Sequence[int] | None) -> Sheet:
    """Samples, and real test images, beside their nearest training images."""
    raise ConfigError("is not written yet")
