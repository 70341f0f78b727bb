"""Many models, precisions, runtimes, shapes and devices in one queue that may be killed and goes on.

report = sweeps.sweep("sweep.toml")
print(report.to_markdown())
"""

from edgetx.sweeps.report import SweepReport
from edgetx.sweeps.runner import status, sweep

__all__ = ["SweepReport", "status", "sweep"]
