"""Figure 3 of the paper: SN in D only, one learning rate.

python train.py configs/stabilisation/sn_d.py --workdir runs/sn_d --data.path D
Cost and FID: not run here at this size; benchmarks/stabilisation.py runs the same rows
on Fashion-MNIST. On another config: --g.no-sn --optim.d-lr 1e-4.
"""

from sagan.config import Config, replace

ROW = {
    "g.sn": False,
    "optim.d_lr": 1e-4,
}
PROVENANCE = dict.fromkeys(ROW, "arXiv:1805.08318, figure 3") | {
    "optim.d_lr": "the figure does not say which rate; here G's"
}


def config() -> Config:
    """The official recipe with this row's stabilisation."""
    return replace(Config(), ROW)
