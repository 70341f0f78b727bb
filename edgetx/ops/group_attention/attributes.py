"""What a group attention is, apart from its tensors, and the one checker of both; no framework is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from edgetx.errors import InputError

Activation = Literal["softmax", "relu2"]
Shape = Sequence[Any]
Scalar = int | float | str

INPUTS = ("q", "k", "v", "groups", "inverse")
PLUGIN_NAMESPACE = "edgetx"
"""Names the plugin library to TensorRT's parser; other engines ignore it."""


@dataclass(frozen=True)
class GroupAttentionAttributes:
    """The attributes of `edgetx::GroupAttention`.

    Attributes:
        num_heads: h.
        scale: positive factor of q·k; `None` is `d ** -0.5`. Rounded to float32, as ONNX stores it.
        activation: `softmax` over the tokens of a group, or `relu2`, the square of what is positive,
            not normalised.

    Raises:
        InputError: a value is out of range.
    """

    num_heads: int
    scale: float | None = None
    activation: Activation = "softmax"

    def __post_init__(self) -> None:
        if self.num_heads < 1:
            raise InputError(f"GroupAttention: num_heads={self.num_heads}; expected a positive integer")
        if self.activation not in (choices := get_args(Activation)):
            raise InputError(
                f"GroupAttention: activation={self.activation!r}; accepted: {', '.join(choices)}"
            )
        if self.scale is not None:
            object.__setattr__(self, "scale", _positive_float32(self.scale))

    def head_size(self, channels: int) -> int:
        """d, from the channels of q and k; dv, from those of v."""
        return channels // self.num_heads

    def with_scale(self, channels: int) -> GroupAttentionAttributes:
        """The same with the scale that q and k of so many channels get."""
        if self.scale is not None:
            return self
        return replace(self, scale=self.head_size(channels) ** -0.5)

    def to_onnx(self) -> dict[str, Scalar]:
        """Every ONNX attribute of the node, `plugin_namespace` included.

        Raises:
            InputError: the scale is left open; `with_scale` first.
        """
        if self.scale is None:
            raise InputError("GroupAttention: a node states its scale; call with_scale(channels of q) first")
        return {
            "num_heads": self.num_heads,
            "scale": self.scale,
            "activation": self.activation,
            "plugin_namespace": PLUGIN_NAMESPACE,
        }

    @classmethod
    def from_onnx(cls, values: Mapping[str, Any]) -> GroupAttentionAttributes:
        """Read a node's attributes, given as plain Python values by name; absent ones take their default.

        Raises:
            InputError: `num_heads` is missing, an attribute is unknown, or a value is out of range.
        """
        given = {name: value for name, value in values.items() if name != "plugin_namespace"}
        known = cls.__dataclass_fields__
        if unknown := sorted(set(given) - set(known)):
            raise InputError(
                f"GroupAttention has unknown attributes {', '.join(unknown)}; accepted: {', '.join(known)}"
            )
        if "num_heads" not in given:
            raise InputError("GroupAttention lacks its attribute num_heads")
        return cls(**given)


def why_not(attributes: GroupAttentionAttributes, shapes: Mapping[str, Shape | None]) -> str | None:
    """None if tensors of these shapes can go into the operator, else the reason with the values.

    Args:
        attributes: valid by construction.
        shapes: by input name; a shape that is `None`, and a dimension that is not an `int` (a symbol,
            `None`), are not checked.
    """
    heads = attributes.num_heads
    ranks = {"q": "[T, h·d]", "k": "[T, h·d]", "v": "[T, h·dv]", "groups": "[G, S]", "inverse": "[T]"}
    for name, form in ranks.items():
        given = shapes.get(name)
        if given is not None and len(given) != form.count(",") + 1:
            return f"GroupAttention: {name} has shape {_show(given)}; expected {form}"
    for name, size in (("q", "d"), ("v", "dv")):
        given = shapes.get(name)
        channels = None if given is None else given[1]
        if isinstance(channels, int) and (channels < 1 or channels % heads):
            return (
                f"GroupAttention: {name} has {channels} channels with num_heads={heads}; "
                f"expected {heads}·{size} for some {size} >= 1"
            )
    q = shapes.get("q")
    if q is not None:
        tokens = q[0]
        for name, wanted in (("k", tuple(q)), ("v", (tokens, None)), ("inverse", (tokens,))):
            given = shapes.get(name)
            if given is not None and not _fits(given, wanted):
                return (
                    f"GroupAttention: {name} has shape {_show(given)}; expected "
                    f"{_show(wanted).replace('None', 'h·dv')}, since q has shape {_show(q)}"
                )
    groups = shapes.get("groups")
    if groups is not None and isinstance(groups[1], int) and groups[1] < 1:
        return f"GroupAttention: groups has shape {_show(groups)}; expected at least one slot per group"
    return None


def _fits(given: Shape, expected: Shape) -> bool:
    return len(given) == len(expected) and all(
        a == b for a, b in zip(given, expected, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _show(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _positive_float32(value: float) -> float:
    """`value` rounded to float32, so that a node read back is equal to the one written."""
    try:
        rounded = cast(float, struct.unpack("f", struct.pack("f", float(value)))[0])
    except (OverflowError, struct.error, TypeError, ValueError):
        rounded = float("inf")
    if not 0.0 < rounded < float("inf"):
        raise InputError(f"GroupAttention: scale={value}; expected a positive, finite float32 number")
    return rounded
