"""Trains: python train.py CONFIG --workdir DIR [--section.field VALUE ...]."""

import sys

from sagan.cli import main

if __name__ == "__main__":
    sys.exit(main.run(main.train_command, sys.argv[1:]))
