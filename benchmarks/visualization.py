"""Times the commands that draw a run: `sagan attend`, `sheets` and `report`.

python benchmarks/visualization.py [--workdir runs/digits] [--rounds 3]

The workdir comes from the README's first command, with ten checkpoints because of
`--run.keep 10 --run.checkpoint-every 200`. Times are of whole processes: start,
compiled programs from the cache, restoring, drawing.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "heat maps of 64 samples": ["attend", "--n", "64"],
    "all sheets": ["sheets"],
    "report": ["report"],
}


def seconds(command: list[str], workdir: Path, out: Path) -> float:
    start = time.perf_counter()
    args = ["sagan", *command, "--workdir", str(workdir), "--out", str(out)]
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for what, command in COMMANDS.items():
            out = Path(folder) / command[0]
            times = [
                seconds(command, asked.workdir, out) for _ in range(1 + asked.rounds)
            ]
            print(
                f"{what}: {statistics.median(times[1:]):.1f} s; first {times[0]:.1f} s"
            )
        size = (Path(folder) / "report").stat().st_size
        print(f"the report has {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
