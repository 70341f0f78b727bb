"""Sweeps that run: resumed, killed, with models that fail, hang and crash."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from edgetx import sweeps
from edgetx.benchmark import BenchReport
from edgetx.errors import InputError
from edgetx.sweeps import plan
from edgetx.sweeps.journal import parse
from tests.processes import descendants, running


def command(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = [sys.executable, "-m", "edgetx", "sweep", *map(str, arguments)]
    return {
        "args": line,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def children_of_sweeps(pid: int) -> list[int]:
    return [child for child, words in descendants(pid).items() if "edgetx.sweeps.child" in words]


def test_sweep(write, classifier, tmp_path):
    file = write('models = ["classifier"]\nshapes = [{}, {batch = 2}]')
    assert sweeps.status(file).counts() == "2 waiting"
    assert not (tmp_path / "sweep.sweep").exists()
    first = sweeps.sweep(file)
    assert first.complete and [line.best for line in first.cells] == [True, True]
    folder = tmp_path / "sweep.sweep"
    figures = first.cells[1].figures
    assert figures.median_ns > 0 and 0 <= figures.error < 1e-5 and figures.metric is None
    assert figures.size == (classifier / "model.onnx").stat().st_size
    whole = BenchReport.from_json((folder / figures.report).read_text())
    assert whole.scenario.inputs["image"] == "float32[2,3,8,8]"
    lines = []
    again = sweeps.sweep(file, progress=lines.append)
    assert again == first and lines == ["2 of 2 cells are done already"]
    # A cell more: only that is measured.
    more = write('models = ["classifier"]\nshapes = [{}, {batch = 2}, {batch = 3}]')
    assert sweeps.sweep(more).counts() == "3 done"
    entries, _ = parse(folder / "journal.jsonl")
    assert Counter(each.cell for each in entries if each.event == "start").most_common(1)[0][1] == 1
    assert json.loads((folder / "report.json").read_text())["cells"][0]["status"] == "done"
    assert "| model |" in (folder / "report.md").read_text().replace("|  |", "|")


def test_command_line(write, classifier):
    file = write('models = ["classifier"]\nshapes = [{batch = 1}, {height = 9}]')
    done = subprocess.run(**command(file))
    assert done.returncode == 1, done.stderr
    assert "has no size 'height' to choose" in " ".join(done.stderr.split())
    assert "1 done, 1 failed" in done.stdout
    shown = subprocess.run(**command(file, "--status", "--json"))
    assert shown.returncode == 0
    assert [line["status"] for line in json.loads(shown.stdout)["cells"]] == ["done", "failed"]
    bad = subprocess.run(**command(file.with_name("nothing.toml")))
    assert bad.returncode == 2 and bad.stderr.startswith("error: cannot read the sweep")


def test_failed_cells_are_run_again_only_when_asked(write, classifier):
    file = write('models = ["classifier"]\nshapes = [{height = 9}]')
    lines: list[str] = []
    for options, tries in (({}, 1), ({}, 1), ({"retry": True}, 2)):
        assert sweeps.sweep(file, progress=lines.append, **options).counts() == "1 failed"
        assert sum("has no size 'height'" in line for line in lines) == tries


def test_precisions_are_converted_once(write, classifier, tmp_path):
    pytest.importorskip("onnx_ir", reason="conversion needs onnx_ir")
    file = write('models = ["classifier"]\nprecisions = ["float32", "float16"]\nshapes = [{}, {batch = 2}]')
    lines: list[str] = []
    made = sweeps.sweep(file, progress=lines.append)
    assert made.counts() == "4 done"
    assert lines.count("preparing classifier float16") == 1
    half = [line.figures for line in made.cells if line.cell.precision == "float16"]
    full = [line.figures for line in made.cells if line.cell.precision == "float32"]
    assert half[0].size != full[0].size
    assert [each.suffix for each in (tmp_path / "sweep.sweep" / "packages").iterdir()] == [".edgetx"]


def test_model_that_hangs_and_process_that_crashes(write, classifier, endless):
    """The first cell never ends; the second is killed by a fault; the third is measured nevertheless."""
    file = write(
        f'models = ["{endless}", "classifier"]\nshapes = [{{}}, {{batch = 2}}]\n[limits]\ncell = 20',
    )
    seen: list[str] = []

    def told(line: str) -> None:
        seen.append(line)
        if line == "endless float32 auto batch=2 cpu: replaying the golden inputs of endless":
            (child,) = children_of_sweeps(os.getpid())
            os.kill(child, signal.SIGSEGV)

    made = sweeps.sweep(file, progress=told)
    assert [line.status for line in made.cells] == ["timeout", "crashed", "done", "done"]
    assert made.cells[0].error == "not done after 20 s; it was ended"
    assert "was killed by signal 11" in made.cells[1].error
    assert children_of_sweeps(os.getpid()) == []


def test_killed_sweep_leaves_no_process_behind(write, endless):
    file = write(f'models = ["{endless}"]')
    with subprocess.Popen(**command(file)) as process:
        deadline = time.monotonic() + 60
        while not (children := children_of_sweeps(process.pid)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(InputError, match="another process works on the sweep"):
            sweeps.sweep(file)
        process.kill()
    deadline = time.monotonic() + 30
    while any(map(running, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(running, children))


@pytest.mark.slow
def test_sweep_that_is_killed_five_times(write, variants):
    """12 cells, SIGKILL at random: the same cells as planned, each exactly once."""
    models = ", ".join(f'"{name}"' for name in variants(3))
    file = write(f"models = [{models}]\nshapes = [{{}}, {{batch = 2}}, {{batch = 3}}, {{batch = 4}}]")
    moments = random.Random(6)
    journal = plan_folder(file) / "journal.jsonl"
    for _ in range(5):
        process = subprocess.Popen(
            **{**command(file), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        )
        # At random, but not before the sweep has got a little further: 5 x 3 of its 24 lines at most.
        lines = len(parse(journal)[0]) + moments.randint(1, 3)
        while len(parse(journal)[0]) < lines:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "the sweep was over before it could be killed"
        process.kill()
        process.wait()
    made = sweeps.sweep(file)
    entries, _ = parse(journal)
    ended = Counter(each.cell for each in entries if each.event == "end")
    assert ended == Counter(cell.id for cell in plan.cells(file, plan.read(file)))
    assert made.counts() == "12 done" and set(ended.values()) == {1}


def plan_folder(file: Path) -> Path:
    return file.with_suffix(".sweep")


@pytest.mark.slow
def test_ray(write, classifier):
    pytest.importorskip("ray", reason="Ray is a large download: pip install 'edgetx[ray]'")
    file = write('models = ["classifier"]\nshapes = [{}, {batch = 2}]')
    lines: list[str] = []
    made = sweeps.sweep(file, ray="local", progress=lines.append)
    assert made.counts() == "2 done"
    assert sum("on node" in line for line in lines) == 2
    assert all(line.figures.median_ns > 0 for line in made.cells)
    assert sweeps.sweep(file, ray="local") == made


def test_ray_that_is_not_there(write, classifier, tmp_path, monkeypatch):
    from edgetx.devices import registry
    from edgetx.errors import UnavailableError

    monkeypatch.setenv("EDGETX_HOME", str(tmp_path / "home"))
    file = write('models = ["classifier"]')
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"pip install 'edgetx\[ray\]'"):
        sweeps.sweep(file, ray="auto")
    monkeypatch.delitem(sys.modules, "ray")
    pytest.importorskip("ray")
    registry.store(registry.parse("orin", "orin.local"))
    with pytest.raises(InputError, match="leave --ray out for devices over SSH"):
        sweeps.sweep(write('models = ["classifier"]\ndevices = ["orin"]'), ray="auto")


@pytest.mark.slow
def test_sources_are_exported_and_quantised(write, tmp_path, monkeypatch):
    """A SOURCE of one's own, in float32 and in 8 bits, judged by data."""
    pytest.importorskip("torch", reason="exports a model")
    import numpy as np

    (tmp_path / "my_nets.py").write_text(
        "import torch\n\n\ndef mlp():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    calib = tmp_path / "calib"
    calib.mkdir()
    for number in range(8):
        values = np.random.default_rng(number).normal(size=(1, 64)).astype(np.float32)
        np.savez(calib / f"{number}.npz", x=values)
    file = write(
        'models = ["my_nets:mlp"]\nprecisions = ["float32", "int8"]\n'
        '[export]\ninputs = ["x=float32[batch,64]"]\n'
        '[quantize]\ncalib = "calib"\nbudget = "sqnr>=10"'
    )
    lines: list[str] = []
    made = sweeps.sweep(file, progress=lines.append)
    assert made.counts() == "2 done", lines
    exact, quantised = (line.figures for line in made.cells)
    assert quantised.size < exact.size and quantised.error > exact.error
    assert [line.best for line in made.cells][1]
    assert len(list((tmp_path / "sweep.sweep" / "packages").iterdir())) == 2
