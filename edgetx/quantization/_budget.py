"""How much accuracy may be lost: `psnr>=-0.1`, `top1>=-0.5`, `sqnr>=20`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from edgetx.errors import InputError

Metric = Literal["psnr", "top1", "top5", "sqnr"]

METRICS: dict[Metric, str] = {
    "psnr": "dB of luma against the true pictures, beside the float32 package (restoration, pairs)",
    "top1": "percentage points, beside the float32 package (classification, a folder per class)",
    "top5": "percentage points, beside the float32 package (classification, a folder per class)",
    "sqnr": "dB from the float32 package's outputs to their error, the lowest over the samples (any package)",
}
"""What a budget may bound, and what the number is."""

FORMS = "psnr>=-0.1, top1>=-0.5, top5>=-0.5 or sqnr>=20"
_BUDGET = re.compile(r"\s*([a-z0-9]+)\s*>=\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """The lowest accepted value of a metric.

    Attributes:
        metric: see `METRICS`; all but `sqnr` are differences to the float32 package, 0 or below.
        at_least: in the metric's unit.
    """

    metric: Metric
    at_least: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `psnr>=-0.1` and the like.

        Raises:
            InputError: another form, an unknown metric, or a number that the metric cannot have.
        """
        match = _BUDGET.fullmatch(text.lower())
        if match is None:
            raise InputError(f"cannot read the budget {text!r}; accepted: {FORMS}")
        metric, number = match[1], float(match[2])
        for known in METRICS:
            if metric == known:
                break
        else:
            raise InputError(f"the budget {text!r} bounds {metric!r}; accepted: {FORMS}")
        if known == "sqnr" and number <= 0:
            raise InputError(
                f"the budget {text!r} would accept an error as large as the output; give sqnr>=20"
            )
        if known != "sqnr" and number > 0:
            raise InputError(
                f"the budget {text!r} asks for more than the float32 package has; {known} is a difference "
                f"to it, such as {known}>=-0.1"
            )
        return cls(known, number)

    @property
    def unit(self) -> str:
        """Of the number."""
        return "points" if self.metric in ("top1", "top5") else "dB"

    def holds(self, measured: float, *, share: float = 1.0) -> bool:
        """Whether `measured` is within the budget, or within a `share` of the accepted loss.

        The loss of `sqnr` is a noise power, so a share of it is a number of dB.
        """
        if self.metric == "sqnr":
            return measured >= self.at_least - 10 * math.log10(share)
        return measured >= self.at_least * share - 1e-9

    def __str__(self) -> str:
        return f"{self.metric}>={self.at_least:g}"
