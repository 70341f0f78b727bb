"""`python -m benchmarks.gpu`: kernels and models on an NVIDIA GPU; exit code 1 if a goal is missed.

Results are written to benchmarks/results/gpu.json and .md after every stage and model (gpu_part where only
some were asked for), and printed last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu import kernels, models
from benchmarks.gpu.timing import Bench, copy_bandwidth
from benchmarks.record import RESULTS, Goal, Progress, Record

PARTS = ("kernels", "models")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all of: {', '.join(PARTS)}")
    parser.add_argument("--model", default="", help="only models whose name holds this text")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu checks that everything runs, on small sizes; it records nothing and its times mean nothing",
    )
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: PyTorch finds no NVIDIA GPU; run this where there is one, or check that everything runs "
            "with --device cpu, which measures nothing",
            file=sys.stderr,
        )
        return 2
    bench = Bench(torch.device(options.device))
    parts = options.parts or PARTS
    # A part's results never replace the whole's.
    stem = "gpu" if set(parts) == set(PARTS) and not options.model else "gpu_part"
    record = Record(title="On an NVIDIA GPU", reports={}, goals=[])
    for goals, notes in _measure(bench, parts, options.model, _say):
        record.goals.extend(goals)
        record.notes.extend(notes)
        if bench.real:
            record.save(stem, options.output, options.output)
    if not bench.real:
        print("\n".join(["ran:", *(f"  {goal.what}" for goal in record.goals), *record.notes]))
        print("self-check on the CPU: nothing was measured, nothing was written")
        return 0
    print(record.to_markdown())
    print(f"written to {options.output / stem}.md", file=sys.stderr)
    return int(any(goal.met is False for goal in record.goals))


def _measure(
    bench: Bench, parts: tuple[str, ...], only: str, progress: Progress
) -> Iterator[tuple[list[Goal], list[str]]]:
    progress("copy bandwidth")
    bandwidth = copy_bandwidth(bench)
    yield (
        [Goal(what="copy bandwidth, read and written", measured=bandwidth / 1e9, unit="GB/s")],
        [_machine(bench)],
    )
    if "kernels" in parts:
        yield from kernels.measure(bench, bandwidth, progress)
    if "models" in parts:
        yield from models.measure(bench, only, progress)


def _machine(bench: Bench) -> str:
    import triton

    name = torch.cuda.get_device_name(bench.device) if bench.real else "no GPU"
    return f"{name}; PyTorch {torch.__version__}, Triton {triton.__version__}."


def _say(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
