"""A sweep and its boxes in 3D, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgetx.points.picture import PALETTE, ramp

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

MOST_POINTS = 200_000
"""Of a larger sweep, so many are drawn, chosen at random."""
_STEPS = 65535
"""Of a coordinate inside the drawn range: 2 mm over 150 m."""


def viewer(
    points: Array,
    detections: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[str],
    title: str,
    facts: Sequence[str] = (),
    color: str = "height",
    partitions: tuple[Array, Mapping[str, Array]] | None = None,
) -> str:
    """A page that shows points and boxes, to orbit, pan and zoom with a mouse or by touch.

    Args:
        points: float `[points, >= 4]`; of more than 200,000 a random sample is drawn, and the page says so.
        detections: with label, score, center, size, yaw and maybe velocity.
        classes: in the order of their colours.
        title, facts: lines that stand above.
        color: what colours the points at first: `height`, `intensity` or a name of `partitions`.
        partitions: each point's pillar, and by name a number for each pillar: further colourings.
    """
    import numpy as np

    facts = list(facts)
    chosen = np.arange(len(points))
    if len(points) > MOST_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False))
        facts.append(f"{MOST_POINTS:,} of {len(points):,} points are drawn, chosen at random")
    drawn = points[chosen]
    low = drawn[:, :3].min(0) if len(drawn) else np.zeros(3)
    span = np.maximum(drawn[:, :3].max(0) - low, 1e-3) if len(drawn) else np.ones(3)
    intensity = drawn[:, 3]
    brightest = max(float(np.percentile(intensity, 99)), 1e-6) if len(drawn) else 1.0
    data: dict[str, Any] = {
        "title": title,
        "facts": facts,
        "color": color,
        "count": len(drawn),
        "low": low.tolist(),
        "span": span.tolist(),
        "ground": float(np.percentile(drawn[:, 2], 5)) if len(drawn) else 0.0,
        "xyz": _pack(np.rint((drawn[:, :3] - low) / span * _STEPS), "<u2"),
        "intensity": _pack(np.rint(np.clip(intensity / brightest, 0, 1) * 255), "u1"),
        "ramp": ramp(np.linspace(0, 1, 64)).tolist(),
        "classes": [[name, PALETTE[index % len(PALETTE)]] for index, name in enumerate(classes)],
        "detections": list(detections),
        "partitions": {},
    }
    if partitions is not None:
        pillar_of, numbers = partitions
        data["pillar"] = _pack(pillar_of[chosen], "<u4")
        data["partitions"] = {name: _pack(each, "<u4") for name, each in numbers.items()}
    template = importlib.resources.files("edgetx.points").joinpath("viewer.html").read_text("utf-8")
    # The end of a script element cannot stand inside one, not even in text.
    return template.replace("{{data}}", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"), 1)


def _pack(values: Array, dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode("ascii")
