"""A sweep of 12 cells that is killed at random five times, against an undisturbed one.

Three small networks with random weights, four batch sizes each. The command `edgetx sweep` runs in a process
of its own, which gets SIGKILL at a random moment (the seed is fixed), and is started again.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline, sweeps
from edgetx.core import TensorSpec
from edgetx.sweeps.journal import ends, parse

TITLE = "A sweep of 12 cells, killed five times"
KILLS = 5
SEED = 6


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The cells of both sweeps by their hashes; `runs` and `rounds` are those of every cell."""
    progress("exporting three networks")
    models = [_export(folder, width) for width in (8, 16, 24)]
    text = (
        f"models = {models}\nshapes = [{{batch = 1}}, {{batch = 2}}, {{batch = 3}}, {{batch = 4}}]\n"
        f"[measure]\nruns = {runs}\nrounds = {rounds}\nthreads = {threads}\n"
    )
    calm, disturbed = folder / "calm.toml", folder / "disturbed.toml"
    for file in (calm, disturbed):
        file.write_text(text.replace("'", '"'), encoding="utf-8")
    progress("the undisturbed sweep")
    undisturbed = sweeps.sweep(calm)
    moments = random.Random(SEED)
    journal = disturbed.with_suffix(".sweep") / "journal.jsonl"
    killed, starts = 0, 0
    while True:
        starts += 1
        progress(f"the other sweep, start {starts}, killed {killed} times")
        process = subprocess.Popen(
            [sys.executable, "-m", "edgetx", "sweep", str(disturbed)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Not before it has got a little further: five times three of its 24 lines at most.
        lines = len(parse(journal)[0]) + moments.randint(1, 3)
        while killed < KILLS and len(parse(journal)[0]) < lines and process.poll() is None:
            time.sleep(0.02)
        try:
            process.wait(moments.uniform(0, 0.3) if killed < KILLS else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    entries = parse(journal)[0]
    count = Counter(entry.cell for entry in entries if entry.event == "end")
    done = {cell for cell, entry in ends(entries).items() if entry.status == "done"}
    wanted = {line.cell.id for line in undisturbed.cells if line.status == "done"}
    return Record(
        title=TITLE,
        reports={},
        goals=[
            Goal(what="cells of the undisturbed sweep", measured=len(wanted), at_least=12),
            Goal(what="kills", measured=killed, at_least=KILLS),
            Goal(what="cells that only one of the two sweeps has", measured=len(wanted ^ done), at_most=0),
            Goal(what="times that a cell was finished, at most", measured=max(count.values()), at_most=1),
            Goal(
                what="cells that were begun again",
                measured=sum(entry.event == "start" for entry in entries) - len(count),
            ),
        ],
        notes=[f"Seed {SEED}; the sweep was started {starts} times."],
    )


def _export(folder: Path, width: int) -> str:
    import torch

    torch.manual_seed(width)
    net = torch.nn.Sequential(torch.nn.Linear(16, width), torch.nn.GELU(), torch.nn.Linear(width, 4))
    output = folder / f"mlp{width}.edgetx"
    shutil.rmtree(output, ignore_errors=True)
    pipeline.export(net, torch.randn(2, 16), output=output, inputs=[TensorSpec.parse("x=float32[batch,16]")])
    return output.name
