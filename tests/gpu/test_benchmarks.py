"""`python -m benchmarks.gpu` without a GPU: it refuses, and its self-check runs what it would measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


def run(root: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu(root: Path, tmp_path: Path) -> None:
    done = run(root, "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: PyTorch finds no NVIDIA GPU; ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_self_check_of_the_kernels(root: Path, tmp_path: Path) -> None:
    """Both peers give what the definition gives in float64, or they are named as not measured."""
    done = run(root, "kernels", "--device", "cpu", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    for stage in (3, 4):
        for contender in ("edgetx", "SDPA", "FlexAttention"):
            assert f"  stage {stage}, batch 2: {contender}\n" in done.stdout
    assert "was not measured" not in done.stdout and "nothing was measured" in done.stdout
    assert not list(tmp_path.iterdir())
