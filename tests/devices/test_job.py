"""Jobs: interrupted, part of a sweep, with engines; and what a device cannot do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgetx import devices, sweeps
from edgetx.core import Target
from edgetx.devices import job
from edgetx.package import Package
from edgetx.sweeps.journal import parse


def edgetx(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "edgetx", *map(str, arguments)]
    return {
        "args": command,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def wait_for(what, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_interrupt_stops_the_job_and_frees_the_device(device, classifier, tmp_path, processes_with):
    there = tmp_path / "there"
    with subprocess.Popen(**edgetx("bench", classifier, "--device", "orin", "--seconds", "60")) as process:

        def measuring() -> bool:
            assert process.poll() is None
            return any("measuring" in file.read_text() for file in there.glob("jobs/*/events.jsonl"))

        wait_for(measuring)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said
    assert not (there / "lock.json").exists() and list((there / "jobs").iterdir()) == []
    wait_for(lambda: processes_with(str(there)) == [])


def test_sweep_with_a_device(device, classifier, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        'models = ["classifier"]\ndevices = ["orin"]\nshapes = [{batch = 2}]\n'
        "[measure]\nruns = 2\nrounds = 1\nwarmup = 0\n"
    )
    lines = []
    made = sweeps.sweep(file, progress=lines.append)
    assert made.counts() == "1 done", lines
    assert made.objectives == {"classifier batch=2 orin": ["latency", "accuracy", "size"]}
    assert any("orin: measuring" in line for line in lines)
    entries, _ = parse(tmp_path / "sweep.sweep" / "journal.jsonl")
    assert entries[-1].figures.size == (classifier / "model.onnx").stat().st_size


def test_in_a_running_event_loop(device):
    """As in a notebook."""

    async def cell() -> str | None:
        return devices.examine("orin")["why_not"]

    assert asyncio.run(cell()) is None


def test_other_commands_say_that_devices_are_for_bench(device, classifier):
    done = subprocess.run(**edgetx("verify", classifier, "--device", "orin"))
    assert done.returncode == 2
    assert "edgetx bench" in done.stderr and "orin" in done.stderr, done.stderr


def test_engines_are_built_where_the_runtime_runs_engines(classifier: Path):
    pytest.importorskip("tensorrt_rtx", reason="builds a real engine; no GPU is needed for that")
    package = Package.open(classifier)
    lines: list[str] = []
    job._build(package, "ort", Target(), lines.append)
    assert lines == [] and not (classifier / "engines").exists()
    job._build(package, "tensorrt_rtx", Target(), lines.append)
    (engine,) = (each for each in (classifier / "engines").iterdir() if each.is_dir())
    assert (engine / "engine.plan").stat().st_size > 0
    before = (engine / "engine.plan").stat().st_mtime_ns
    job._build(package, "tensorrt_rtx", Target(), lines.append)
    assert (engine / "engine.plan").stat().st_mtime_ns == before
