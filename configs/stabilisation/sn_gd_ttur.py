"""Figure 3 of the paper: SN in both networks, two rates (TTUR); the recipe.

python train.py configs/stabilisation/sn_gd_ttur.py --workdir runs/ttur --data.path D
Cost and FID: not run here at this size; benchmarks/stabilisation.py runs the same rows
on Fashion-MNIST.
"""

from sagan.config import Config, replace

ROW = {}
PROVENANCE: dict[str, str] = {}


def config() -> Config:
    """The official recipe with this row's stabilisation."""
    return replace(Config(), ROW)
