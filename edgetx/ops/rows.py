"""What operators share that work along the last axis of `[..., C]`, with vectors `[C]` beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgetx.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = Sequence[Any]


def why_not(shapes: Mapping[str, Shape | None], same: Sequence[str], vectors: Sequence[str]) -> str | None:
    """None if the shapes fit, else the reason; unknown shapes and symbolic sizes fit.

    Args:
        shapes: input name -> shape.
        same: inputs `[..., C]` of one shape.
        vectors: inputs `[C]`.
    """
    first = shapes.get(same[0])
    if first is None:
        return None
    if not len(first):
        return f"{same[0]} is a scalar; expected at least one axis, the channels"
    expected: dict[str, Shape] = {**dict.fromkeys(same, first), **dict.fromkeys(vectors, first[-1:])}
    for key, wanted in expected.items():
        given = shapes.get(key)
        if given is not None and not _fits(given, wanted):
            return (
                f"{key} has shape {_text(given)}; expected {_text(wanted)}, "
                f"since {same[0]} has shape {_text(first)}"
            )
    return None


def check_node(
    node: ir.Node, inputs: Sequence[str], reason_against: Callable[[Mapping[str, Shape | None]], str | None]
) -> None:
    """Raise ExportError unless the node has all `inputs` and `reason_against(shapes)` has none."""
    if len(node.inputs) != len(inputs) or any(value is None for value in node.inputs):
        given = sum(value is not None for value in node.inputs)
        raise ExportError(f"node {node.name!r} has {given} inputs; {node.op_type} takes {', '.join(inputs)}")
    shapes = {
        name: None if value is None or value.shape is None else tuple(value.shape)
        for name, value in zip(inputs, node.inputs, strict=True)
    }
    if reason := reason_against(shapes):
        raise ExportError(f"node {node.name!r} ({node.op_type}): {reason}")


def _fits(given: Shape, wanted: Shape) -> bool:
    return len(given) == len(wanted) and all(
        left == right or not (isinstance(left, int) and isinstance(right, int))
        for left, right in zip(given, wanted, strict=True)
    )


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
