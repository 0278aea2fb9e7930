"""Evaluates: python eval.py --workdir DIR [--step latest|best|all|N] [...]."""

import sys

from sagan.cli import main

if __name__ == "__main__":
    sys.exit(main.run(main.eval_command, sys.argv[1:]))
