"""Evaluates: python eval.py --workdir DIR [--step latest|best|all|N] [...]."""

import sys

from sagan import cli

if __name__ == "__main__":
    sys.exit(cli.run(cli.eval_command, sys.argv[1:]))
