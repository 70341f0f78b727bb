"""The operator's inputs, and the checker of their shapes; it has no attributes."""

from __future__ import annotations

from collections.abc import Mapping

from edgetx.ops import rows

INPUTS = ("x", "bias")


def why_not(attributes: None, shapes: Mapping[str, rows.Shape | None]) -> str | None:
    """None if the operator takes tensors of these shapes (input name -> shape), else the reason."""
    return rows.why_not(shapes, same=INPUTS[:1], vectors=INPUTS[1:])
