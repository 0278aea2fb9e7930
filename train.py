"""Trains: python train.py CONFIG --workdir DIR [--section.field VALUE ...]."""

import sys

from sagan import cli

if __name__ == "__main__":
    sys.exit(cli.run(cli.train_command, sys.argv[1:]))
