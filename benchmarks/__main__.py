"""`python -m benchmarks [NAME ...]`: run scripts and write their results; exit code 1 if a goal is missed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.record import RESULTS

NAMES = (
    "swin",
    "operators",
    "overhead",
    "parity",
    "restoration",
    "restoration_parity",
    "restoration_quality",
    "precision",
    "autocast",
    "quantization",
    "tiling",
    "flatformer",
    "harness",
    "rtx_builds",
    "sweep",
    "device",
    "serving",
    "demos",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all of: {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=100, help="timed runs per engine")
    parser.add_argument("--rounds", type=int, default=10, help="alternating rounds they are spread over")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")
    missed = False
    for name in options.names or NAMES:
        script = import_module(f"benchmarks.{name}")
        with tempfile.TemporaryDirectory(prefix="edgetx-") as folder:
            record = script.run(
                Path(folder),
                threads=options.threads,
                runs=options.runs,
                rounds=options.rounds,
                progress=lambda step: print(step, file=sys.stderr, flush=True),
            )
        page = record.save(name, options.output, Path(folder))
        print(record.to_markdown())
        print(f"written to {page}", file=sys.stderr)
        missed |= any(goal.met is False for goal in record.goals)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
