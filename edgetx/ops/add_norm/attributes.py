"""Inputs and attribute of AddNorm and NormAdd, and the checker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetx.errors import InputError
from edgetx.ops import rows

if TYPE_CHECKING:
    import onnx_ir as ir

INPUTS = ("x", "branch", "bias", "scale", "shift")


@dataclass(frozen=True, slots=True)
class AddNormAttributes:
    """The attribute of AddNorm and of NormAdd.

    Args:
        epsilon: added to the variance, 0 or more.

    Raises:
        InputError: epsilon is negative or NaN.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise InputError(f"epsilon={self.epsilon}; accepted: 0 or more")

    @classmethod
    def from_onnx(cls, node: ir.Node) -> AddNormAttributes:
        """The attributes of a node, on which `epsilon` must be written."""
        if "epsilon" not in node.attributes:
            raise InputError(
                f"node {node.name!r} ({node.op_type}) has no attribute epsilon; write it, a FLOAT"
            )
        return cls(node.attributes["epsilon"].as_float())


def why_not(attributes: AddNormAttributes, shapes: Mapping[str, rows.Shape | None]) -> str | None:
    """None if the operators take tensors of these shapes (input name -> shape), else the reason."""
    return rows.why_not(shapes, same=INPUTS[:2], vectors=INPUTS[2:])
