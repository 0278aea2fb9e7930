"""The command `sagan`, as `python -m sagan`."""

from sagan.cli.main import main

if __name__ == "__main__":
    main()
