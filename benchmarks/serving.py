"""The run side without PyTorch: start-up, threads, installed size, and the C library's cost per call."""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

import edgetx
from benchmarks.record import Goal, Progress, Record
from edgetx import capi, pipeline

ROOT = Path(__file__).parents[1]
TITLE = "Start-up, threads and the C library"

OURS = """
import sys
import numpy as np
import edgetx
session = edgetx.load(sys.argv[1], target=edgetx.Target(threads=int(sys.argv[3])))
outputs = session.run({"image": np.load(sys.argv[2])})
assert "torch" not in sys.modules
"""
BARE = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
options.register_custom_ops_library(sys.argv[4])
providers = ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=providers)
outputs = session.run(None, {"image": np.load(sys.argv[2])})
"""


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure; start-up is a process each time, so four times `rounds` of them are started."""
    progress("exporting swin_tiny")
    package = pipeline.export("swin_tiny", pretrained=False, output=folder / "swin_tiny.edgetx")
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    np.save(folder / "image.npy", image)
    progress("making a wheel and an environment for it")
    wheel = _wheel(folder)
    python = _bare(folder / "bare", wheel)
    progress("starting processes")
    ours, bare, added = _start_up(python, package.path, folder / "image.npy", threads, 4 * rounds)
    progress("eight threads")
    one, eight = _threads(package.path, image, threads, max(runs // 2, 16), rounds)
    progress("the C library")
    call, bare_call = _c_calls(folder, runs * 20, rounds)
    goals = [
        Goal(
            what=f"start-up to first result minus a bare script, median of {4 * rounds} pairs of processes",
            measured=added,
            unit="ms",
            at_most=60.0,
        ),
        Goal(what="start-up to first result", measured=ours, unit="ms"),
        Goal(what="the bare script", measured=bare, unit="ms"),
        Goal(what="throughput of 8 threads / of one", measured=eight / one, at_least=0.95),
        Goal(
            what="edgetx_session_run minus a bare call in C",
            measured=call - bare_call,
            unit="us",
            at_most=10.0,
        ),
        Goal(
            what="installed size of edgetx, native libraries included",
            measured=_unpacked(wheel),
            unit="MB",
            at_most=15,
        ),
    ]
    return Record(title=TITLE, reports={}, goals=goals)


def _start_up(
    python: Path, package: Path, image: Path, threads: int, rounds: int
) -> tuple[float, float, float]:
    """Median milliseconds from starting a process to its end right after the first result.

    Ours, bare, and what ours adds to the bare one that ran beside it: from one minute to the next the machine
    changes by more than that. The first round brings the files into memory.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ask = [str(python), "-c", "from edgetx.ops import library; print(library.path())"]
    operators = subprocess.run(
        ask, check=True, capture_output=True, text=True, env=environment, cwd=package.parent
    ).stdout.strip()
    durations: dict[str, list[float]] = {OURS: [], BARE: []}
    for index in range(rounds + 1):
        for code in (OURS, BARE) if index % 2 else (BARE, OURS):
            start = perf_counter()
            command = [str(python), "-c", code, str(package), str(image), str(threads), operators]
            subprocess.run(command, check=True, env=environment, cwd=package.parent)
            if index:
                durations[code].append((perf_counter() - start) * 1e3)
    added = [ours - bare for ours, bare in zip(durations[OURS], durations[BARE], strict=True)]
    return statistics.median(durations[OURS]), statistics.median(durations[BARE]), statistics.median(added)


def _threads(package: Path, image: np.ndarray, threads: int, runs: int, rounds: int) -> tuple[float, float]:
    """Runs per second from one caller and from eight, median over alternating rounds."""
    feeds = {"image": image}
    rates: dict[int, list[float]] = {1: [], 8: []}
    with edgetx.load(package, target=edgetx.Target(threads=threads)) as session:
        session.warm_up(feeds, runs=3)
        for index in range(rounds):
            for callers in (1, 8) if index % 2 else (8, 1):
                start = perf_counter()
                with ThreadPoolExecutor(callers) as pool:
                    list(pool.map(lambda _: session.run(feeds), range(runs)))
                rates[callers].append(runs / (perf_counter() - start))
    return statistics.median(rates[1]), statistics.median(rates[8])


def _c_calls(folder: Path, runs: int, rounds: int) -> tuple[float, float]:
    """Median microseconds of a call through libedgetx and of a bare one, on a model that does little."""
    import torch

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    package = pipeline.export(net, torch.randn(1, 3, 4), output=folder / "tiny.edgetx")
    headers = subprocess.run(
        [sys.executable, "cmake/fetch_headers.py"], check=True, capture_output=True, text=True
    ).stdout.strip()
    engine = importlib.util.find_spec("onnxruntime")
    assert engine is not None and engine.origin is not None
    (shared,) = Path(engine.origin).parent.glob("capi/libonnxruntime.so*")
    program = folder / "capi_overhead"
    compiler = shutil.which("c++") or "g++"
    found = capi.library()
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-O2", "benchmarks/capi_overhead.cc", "-o", str(program)),
            *("-I", str(capi.include_dir()), "-isystem", f"{headers}/usr/include/onnxruntime"),
            *(str(found), f"-Wl,-rpath,{found.parent}", "-ldl"),
        ],
        check=True,
    )
    done = subprocess.run(
        [str(program), str(package.path), str(shared), str(runs), str(rounds)],
        check=True,
        capture_output=True,
        text=True,
    )
    ours, bare = (int(each) / 1e3 for each in done.stdout.split())
    return ours, bare


def _wheel(folder: Path) -> Path:
    """A wheel of this checkout."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(ROOT)], check=True, env={**os.environ, "PATH": path})
    (wheel,) = folder.glob("edgetx-*.whl")
    return wheel


def _bare(folder: Path, wheel: Path) -> Path:
    """The Python of an environment with `edgetx[ort]` and what it asks for, nothing else."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    constraints = ROOT / "constraints" / "dev.txt"
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints)]
    subprocess.run([*install, f"edgetx[ort] @ {wheel.as_uri()}"], check=True)
    return python


def _unpacked(wheel: Path) -> float:
    """Megabytes of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return sum(each.file_size for each in archive.infolist()) / 1e6
