"""Latency and memory of packages and of their peers, each in its own process, rounds alternating."""

from edgetx.benchmark.machine import MachineRecord
from edgetx.benchmark.report import BenchReport, EngineResult, InputResult, Scenario, StageResult
from edgetx.benchmark.runner import bench, compare
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.stats import Statistics

__all__ = [
    "BenchReport",
    "EngineResult",
    "EngineSpec",
    "InputResult",
    "MachineRecord",
    "Scenario",
    "StageResult",
    "Statistics",
    "bench",
    "compare",
]
