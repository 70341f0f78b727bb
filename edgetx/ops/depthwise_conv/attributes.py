"""What a depthwise convolution is, apart from its tensors, and the one checker of both. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgetx.errors import InputError

Activation = Literal["none", "gelu"]
Combine = Literal["add", "multiply"]
Shape = Sequence[Any]
Scalar = int | str

INPUTS = ("x", "weight", "bias", "other")
PLUGIN_NAMESPACE = "edgetx"
"""Names the plugin library to TensorRT's parser; other engines ignore it."""


@dataclass(frozen=True)
class DepthwiseConvAttributes:
    """The attributes of `edgetx::DepthwiseConv`.

    Attributes:
        offset: the first channel of `x` that is convolved; as many follow as `weight` has.
        activation: of the sum: `none`, or the exact `gelu`.
        combine: how `other` joins the result: `add` or `multiply`.
        other_offset: the first channel of `other` that is used.

    Raises:
        InputError: a value is out of range.
    """

    offset: int = 0
    activation: Activation = "none"
    combine: Combine = "add"
    other_offset: int = 0

    def __post_init__(self) -> None:
        for name in ("offset", "other_offset"):
            if getattr(self, name) < 0:
                raise InputError(f"DepthwiseConv: {name}={getattr(self, name)}; expected 0 or more")
        for name, choices in (("activation", Activation), ("combine", Combine)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(
                    f"DepthwiseConv: {name}={getattr(self, name)!r}; accepted: {', '.join(get_args(choices))}"
                )

    def to_onnx(self) -> dict[str, Scalar]:
        """Every ONNX attribute of the node, `plugin_namespace` included."""
        return {
            "offset": self.offset,
            "activation": self.activation,
            "combine": self.combine,
            "other_offset": self.other_offset,
            "plugin_namespace": PLUGIN_NAMESPACE,
        }

    @classmethod
    def from_onnx(cls, values: Mapping[str, Any]) -> DepthwiseConvAttributes:
        """Read a node's attributes, given as plain Python values by name; absent ones take their default.

        Raises:
            InputError: an attribute is unknown, or a value is out of range.
        """
        given = {name: value for name, value in values.items() if name != "plugin_namespace"}
        known = cls.__dataclass_fields__
        if unknown := sorted(set(given) - set(known)):
            raise InputError(
                f"DepthwiseConv has unknown attributes {', '.join(unknown)}; accepted: {', '.join(known)}"
            )
        return cls(**given)


def why_not(attributes: DepthwiseConvAttributes, shapes: Mapping[str, Shape | None]) -> str | None:
    """None if tensors of these shapes can go into the operator, else the reason with the values.

    Args:
        attributes: valid by construction.
        shapes: by input name; a shape that is `None`, and a dimension that is not an `int` (a symbol,
            `None`), are not checked.
    """
    forms = {
        "x": "[B, H, W, channels]",
        "weight": "[kh, kw, C]",
        "bias": "[C]",
        "other": "[B, H, W, channels]",
    }
    for name, form in forms.items():
        given = shapes.get(name)
        if given is not None and len(given) != form.count(",") + 1:
            return f"DepthwiseConv: {name} has shape {_show(given)}; expected {form}"
    weight, bias, x, other = (shapes.get(name) for name in ("weight", "bias", "x", "other"))
    if weight is not None:
        if any(isinstance(side, int) and side % 2 == 0 for side in weight[:2]):
            return f"DepthwiseConv: weight has shape {_show(weight)}; expected odd kh and kw"
        channels = weight[2]
        if bias is not None and _differ(bias[0], channels):
            return f"DepthwiseConv: bias has shape {_show(bias)}; expected [{channels}], weight's channels"
        for name, shape, offset in (("x", x, attributes.offset), ("other", other, attributes.other_offset)):
            if shape is not None and _ints(shape[3], channels) and offset + channels > shape[3]:
                return (
                    f"DepthwiseConv: {name} has {shape[3]} channels; expected at least {offset + channels}, "
                    f"{channels} of weight from {offset} on"
                )
    if x is not None and other is not None and any(map(_differ, x[:3], other[:3])):
        return (
            f"DepthwiseConv: other has shape {_show(other)}; expected batch, height and width of x, "
            f"{_show(x)}"
        )
    return None


def _ints(*sizes: Any) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _differ(left: Any, right: Any) -> bool:
    return _ints(left, right) and left != right


def _show(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
