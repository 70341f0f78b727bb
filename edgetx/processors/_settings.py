"""What every processor needs: which input it fills, and its settings as the manifest stores them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from edgetx.core import IOSpec, TensorSpec
from edgetx.errors import InputError


def pick_input(io: IOSpec, name: str | None, kind: str) -> TensorSpec:
    if name is None and len(io.inputs) == 1:
        return io.inputs[0]
    for spec in io.inputs:
        if spec.name == name:
            return spec
    raise InputError(
        f"the {kind} processor fills the input {name!r}; the model takes {'; '.join(map(str, io.inputs))}"
    )


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def settings(processor: Any) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in msgspec.structs.asdict(processor).items()
    }
