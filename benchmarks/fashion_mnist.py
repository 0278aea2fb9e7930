"""Results on Fashion-MNIST: trains configs/fashion_mnist.py, evaluates and draws it.

apt-get install dataset-fashion-mnist    (or give --data.path, a folder of IDX files)
python benchmarks/fashion_mnist.py [--out runs/fashion_mnist] [--only train evaluate]

A run that was stopped is resumed, and what is finished is not done again. Any further
arguments go to train.py, such as --run.steps 500. `--only results` writes the table and
the pictures to benchmarks/results/.
"""

import sys

import whole_run

from sagan.cli import main as cli


def main() -> int:
    """Reads the arguments; mistakes are reported in one line."""
    parser = whole_run.parser(__doc__, "fashion_mnist", whole_run.PARTS)
    known, others = parser.parse_known_args()
    run = known.out / "run"
    return cli.run(
        lambda _: whole_run.work("fashion_mnist", run, others, known.only), []
    )


if __name__ == "__main__":
    sys.exit(main())
