"""What a window attention is, apart from its tensors, and the one checker of both; no framework is needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from edgetx.errors import InputError

Mask = Literal["none", "region"]
QkNorm = Literal["none", "l2"]
ShiftWhenSingle = Literal["keep", "drop_axis", "drop_both"]
Pad = Literal["none", "before_roll", "after_roll"]
Pair = tuple[int, int]
Shape = Sequence[Any]
Scalar = int | float | str | list[int]

PLUGIN_NAMESPACE = "edgetx"
"""Names the plugin library to TensorRT's parser; other engines ignore it."""


@dataclass(frozen=True)
class WindowAttentionAttributes:
    """The attributes of `edgetx::WindowAttention`; pairs are (height, width), in tokens.

    Attributes:
        num_heads: h.
        head_size: d, the channels of one head's query and key.
        window: query window.
        kv_window: key window, centred on the query window; `None` is `window`.
        shift: cyclic shift towards the origin, smaller than the window.
        mask: `region` adds `mask_value` between tokens of different regions of the shifted map.
        mask_value: as in the original code, not -inf.
        qk_norm: `l2` divides q and k by their norms (cosine attention).
        shift_when_single: what happens to the shift when the padded map is a single window along an axis:
            `keep` it, `drop_axis` (that axis), or `drop_both` (both axes if either is single).
        scale: positive factor of q·k; `None` is `head_size ** -0.5`. Rounded to float32, as ONNX stores it.
        pad: what happens to a map that is no multiple of `pad_to`: `none` (an error), `before_roll`
            or `after_roll`.
        pad_to: a multiple of `window`; `None` is `window`.

    Raises:
        InputError: a value is out of range.
    """

    num_heads: int
    head_size: int
    window: Pair
    kv_window: Pair = None  # type: ignore[assignment]
    shift: Pair = (0, 0)
    mask: Mask = "none"
    mask_value: float = -100.0
    qk_norm: QkNorm = "none"
    shift_when_single: ShiftWhenSingle = "keep"
    scale: float = None  # type: ignore[assignment]
    pad: Pad = "none"
    pad_to: Pair = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("num_heads", "head_size"):
            if (size := getattr(self, name)) < 1:
                raise InputError(f"WindowAttention: {name}={size}; expected a positive integer")
        for name, accepted in (
            ("mask", Mask),
            ("qk_norm", QkNorm),
            ("shift_when_single", ShiftWhenSingle),
            ("pad", Pad),
        ):
            if (choice := getattr(self, name)) not in (choices := get_args(accepted)):
                raise InputError(f"WindowAttention: {name}={choice!r}; accepted: {', '.join(choices)}")
        for name, fallback in (("kv_window", "window"), ("pad_to", "window")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self, fallback))
        for name in ("window", "kv_window", "shift", "pad_to"):
            pair = tuple(int(size) for size in getattr(self, name))
            if len(pair) != 2:
                raise InputError(f"WindowAttention: {name}={pair}; expected two sizes (height, width)")
            object.__setattr__(self, name, pair)
        scale = self.head_size**-0.5 if self.scale is None else self.scale
        object.__setattr__(self, "scale", _float32("scale", scale))
        if self.scale <= 0:
            raise InputError(f"WindowAttention: scale={self.scale}; expected a positive number")
        object.__setattr__(self, "mask_value", _float32("mask_value", self.mask_value))
        for axis in range(2):
            window, kv, shift, pad_to = (
                self.window[axis],
                self.kv_window[axis],
                self.shift[axis],
                self.pad_to[axis],
            )
            if window < 1:
                raise InputError(f"WindowAttention: window={self.window}; expected positive sizes")
            if kv < window or (kv - window) % 2:
                raise InputError(
                    f"WindowAttention: kv_window={self.kv_window} around window={self.window}; "
                    "expected the window plus an even number on each axis"
                )
            if not 0 <= shift < window:
                raise InputError(
                    f"WindowAttention: shift={self.shift} with window={self.window}; "
                    "expected 0 <= shift < window"
                )
            if pad_to < 1 or pad_to % window:
                raise InputError(
                    f"WindowAttention: pad_to={self.pad_to} with window={self.window}; "
                    "expected a multiple of the window"
                )
        if self.pad == "none" and self.pad_to != self.window:
            raise InputError(
                f"WindowAttention: pad_to={self.pad_to} has no effect with pad='none'; "
                "choose pad='before_roll' or 'after_roll', or leave pad_to out"
            )

    @property
    def query_tokens(self) -> int:
        """Nq, the tokens of one query window."""
        return self.window[0] * self.window[1]

    @property
    def key_tokens(self) -> int:
        """Nk, the tokens of one key window."""
        return self.kv_window[0] * self.kv_window[1]

    @property
    def has_shift(self) -> bool:
        """Whether any size of map is shifted."""
        return any(self.shift)

    @property
    def has_mask(self) -> bool:
        """Whether any size of map is masked: regions exist only along shifted axes."""
        return self.mask == "region" and self.has_shift

    @property
    def overlaps(self) -> bool:
        """Whether key windows are larger than query windows."""
        return self.kv_window != self.window

    def value_size(self, channels: int) -> int:
        """dv, from the size K of qkv's last axis."""
        return channels // self.num_heads - 2 * self.head_size

    def padded(self, height: int, width: int) -> Pair:
        """The size of the map after padding."""
        if self.pad == "none":
            return height, width
        return -(-height // self.pad_to[0]) * self.pad_to[0], -(-width // self.pad_to[1]) * self.pad_to[1]

    def shift_at(self, padded: Pair) -> Pair:
        """The shift that a map of this padded size gets, by `shift_when_single`."""
        single = [padded[axis] <= self.window[axis] for axis in range(2)]
        if self.shift_when_single == "keep" or not any(single):
            return self.shift
        if self.shift_when_single == "drop_both":
            return 0, 0
        return 0 if single[0] else self.shift[0], 0 if single[1] else self.shift[1]

    def to_onnx(self) -> dict[str, Scalar]:
        """Every ONNX attribute of the node, `plugin_namespace` included."""
        return {
            "num_heads": self.num_heads,
            "head_size": self.head_size,
            "window": list(self.window),
            "kv_window": list(self.kv_window),
            "shift": list(self.shift),
            "mask": self.mask,
            "mask_value": self.mask_value,
            "qk_norm": self.qk_norm,
            "shift_when_single": self.shift_when_single,
            "scale": self.scale,
            "pad": self.pad,
            "pad_to": list(self.pad_to),
            "plugin_namespace": PLUGIN_NAMESPACE,
        }

    @classmethod
    def from_onnx(cls, values: Mapping[str, Any]) -> WindowAttentionAttributes:
        """Read a node's attributes, given as plain Python values by name; absent ones take their default.

        Raises:
            InputError: a required attribute is missing, one is unknown, or a value is out of range.
        """
        given = {name: value for name, value in values.items() if name != "plugin_namespace"}
        known = cls.__dataclass_fields__
        if unknown := sorted(set(given) - set(known)):
            raise InputError(
                f"WindowAttention has unknown attributes {', '.join(unknown)}; accepted: {', '.join(known)}"
            )
        if missing := sorted({"num_heads", "head_size", "window"} - set(given)):
            raise InputError(f"WindowAttention lacks its attributes {', '.join(missing)}")
        return cls(**given)


def why_not(attributes: WindowAttentionAttributes, shapes: Mapping[str, Shape | None]) -> str | None:
    """None if tensors of these shapes can go into the operator, else the reason with the values.

    Args:
        attributes: valid by construction.
        shapes: by input name (`qkv`, and where present `bias`, `head_scale`, `pad_value`); a dimension
            that is not an `int` (a symbol, `None`) is not checked.
    """
    qkv = shapes["qkv"]
    if qkv is None or len(qkv) != 4:
        return f"WindowAttention: qkv has shape {_show(qkv)}; expected [batch, height, width, channels]"
    _, height, width, channels = qkv
    heads, size = attributes.num_heads, attributes.head_size
    if isinstance(channels, int) and (channels % heads or attributes.value_size(channels) < 1):
        return (
            f"WindowAttention: qkv has {channels} channels with num_heads={heads}, head_size={size}; "
            f"expected {heads}·(2·{size} + dv) for some dv >= 1"
        )
    expected: dict[str, tuple[Any, ...]] = {
        "bias": (heads, attributes.query_tokens, attributes.key_tokens),
        "head_scale": (heads,),
        "pad_value": (channels,),
    }
    for name, shape in expected.items():
        given = shapes.get(name)
        if given is not None and not _fits(given, shape):
            return f"WindowAttention: {name} has shape {_show(given)}; expected {_show(shape)}"
    for axis, (name, extent) in enumerate((("height", height), ("width", width))):
        if not isinstance(extent, int):
            continue
        if extent < 1:
            return f"WindowAttention: the map has {name} {extent}; expected at least 1"
        window = attributes.window[axis]
        if attributes.pad == "none" and extent % window:
            return (
                f"WindowAttention: {name} {extent} is no multiple of the window {window} and pad='none'; "
                "resize the map or choose pad='before_roll' or 'after_roll'"
            )
    return None


def _fits(given: Shape, expected: Shape) -> bool:
    return len(given) == len(expected) and all(
        a == b for a, b in zip(given, expected, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _show(shape: Shape | None) -> str:
    return "none" if shape is None else f"[{', '.join(map(str, shape))}]"


def _float32(name: str, value: float) -> float:
    """`value` rounded to float32, so that a node read back is equal to the one written."""
    try:
        rounded = cast(float, struct.unpack("f", struct.pack("f", float(value)))[0])
    except (OverflowError, struct.error, TypeError, ValueError):
        rounded = float("inf")
    if not abs(rounded) < float("inf"):
        raise InputError(f"WindowAttention: {name}={value}; expected a finite float32 number")
    return rounded
