"""The written package, on samples that decided nothing and on its golden inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgetx.errors import VerificationError
from edgetx.package import Case, Package, QuantizationEntry
from edgetx.package._entries import to_json
from edgetx.quantization import _data
from edgetx.quantization._budget import Budget
from edgetx.quantization._judge import Judge, signal_to_noise
from edgetx.runtimes import load
from edgetx.verification import verify

MARGIN = 1.5
"""A package's tolerance: so many times the error that it showed on the golden inputs when it was judged."""
WORSE = 20.0
"""DB by which golden inputs may be noisier than the noisiest judging sample. By what they show, DAT-light's
golden photographs are 10.4 dB noisier than crops of others; a range that does not fit clips far more."""
SMALLEST_TOLERANCE = 1e-5
"""As that of float32."""


def judged(
    package: Package,
    candidate: Package,
    data: _data.Data,
    budget: Budget,
    entry: QuantizationEntry,
    folder: Path,
) -> QuantizationEntry:
    """The entry with what the samples that judge say.

    Raises:
        VerificationError: the budget does not hold.
    """
    with load(package, runtime="ort") as session:
        judge = Judge(data, data.judging, budget.metric, package.io, session.run)
    with load(candidate, runtime="ort") as session:
        score = judge.score(session.run)
        ran_on = session.describe()
    change = judge.change(score)
    if not budget.holds(change):
        raise VerificationError(
            f"{package.name}: the choice that holds {budget} on the {len(data.deciding)} samples that "
            f"decide ({float(entry.change):+.3g} {budget.unit}) does not on the {len(data.judging)} that "
            f"judge: {budget.metric} {change:+.3g} {budget.unit}; nothing was written to {folder}; give "
            "more calibration data, or widen the budget"
        )
    return msgspec.structs.replace(
        entry,
        before=None if judge.before.task is None else to_json(judge.before.task),
        after=None if score.task is None else to_json(score.task),
        change=to_json(change),
        sqnr=to_json(score.sqnr),
        ran_on=ran_on,
    )


def tolerance(candidate: Package, cases: Sequence[Case], judged: float, folder: Path) -> float:
    """What verification accepts from now on: the error on the golden inputs, times `MARGIN`.

    Raises:
        VerificationError: golden inputs, such as those of other sizes, are far noisier than what was
            judged; or an integer output differs.
    """
    verdict = verify(candidate, runtime="ort")  # with a tolerance of 1
    if verdict.error is not None:
        raise VerificationError(
            f"{candidate.name} does not run on its golden inputs: {verdict.error}; nothing was written "
            f"to {folder}"
        )
    with load(candidate, runtime="ort") as session:
        noise = min(signal_to_noise(case.outputs, session.run(case.inputs)) for case in cases)
    if not noise >= judged - WORSE:
        raise VerificationError(
            f"{candidate.name}: the outputs of the golden inputs stand {noise:.1f} dB above their error, "
            f"those of the samples that judge at least {judged:.1f} dB; nothing was written to {folder}; "
            "give calibration data that are like the golden inputs, in size too"
        )
    floats = {spec.name for spec in candidate.io.outputs if "float" in spec.dtype}
    if wrong := [each.name for each in verdict.outputs if each.name not in floats and not each.passed]:
        raise VerificationError(
            f"{candidate.name}: the integer output {wrong[0]!r} differs from PyTorch's on golden inputs; "
            f"nothing was written to {folder}; keep the float32 package"
        )
    shares = [each.max_abs / each.tolerance for each in verdict.outputs if each.name in floats]
    return max(SMALLEST_TOLERANCE, MARGIN * max(shares, default=0.0))
