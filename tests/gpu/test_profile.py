"""The profilers and rates of a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgetx
from edgetx.benchmark import EngineSpec, rates
from edgetx.benchmark.profilers import ENGINES
from edgetx.runtimes import get

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no NVIDIA GPU that PyTorch can use", allow_module_level=True)


@pytest.mark.parametrize("runtime", ENGINES)
def test_the_layers_of_an_engine_sum_to_its_run(runtime: str, tmp_path: Path) -> None:
    if (reason := get(runtime).why_not(None, edgetx.Target(device="cuda"))) is not None:
        pytest.skip(reason)
    layers = [torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.GELU()) for _ in range(8)]
    package = edgetx.export(torch.nn.Sequential(*layers), torch.randn(4096, 1024), output=tmp_path / "tower")
    target = edgetx.Target(device="cuda")
    report = edgetx.bench(package, runtime=runtime, target=target, profile=True, runs=10, rounds=2)
    profile = report.engines[0].profile
    assert profile is not None, report.notes
    assert 0.95 <= profile.explained <= 1.0
    assert {share.name for share in profile.by_module(1)} & {str(index) for index in range(8)}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_rates(precision: str) -> None:
    """Any GPU of the last ten years does more, and none so much."""
    spec = EngineSpec(name="x", kind="package", device="cuda", precision=precision)
    found, why_none = rates.measure(spec)
    assert found is not None, why_none
    assert 1e11 < found.flops < 1e16
    assert 1e10 < found.bandwidth < 1e14
    assert precision in found.how
