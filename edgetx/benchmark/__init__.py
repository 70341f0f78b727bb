"""Latency and memory of packages and of their peers, each in its own process, rounds alternating."""

from edgetx.benchmark.loads import SCENARIOS, Load, LoadResult
from edgetx.benchmark.machine import MachineRecord
from edgetx.benchmark.measure import bench
from edgetx.benchmark.profiles import Profile
from edgetx.benchmark.report import BenchReport, EngineResult, Failure, InputResult, Scenario, StageResult
from edgetx.benchmark.runner import compare
from edgetx.benchmark.specs import EngineSpec
from edgetx.benchmark.state import StateLog
from edgetx.benchmark.stats import Statistics

__all__ = [
    "SCENARIOS",
    "BenchReport",
    "EngineResult",
    "EngineSpec",
    "Failure",
    "InputResult",
    "Load",
    "LoadResult",
    "MachineRecord",
    "Profile",
    "Scenario",
    "StageResult",
    "StateLog",
    "Statistics",
    "bench",
    "compare",
]
