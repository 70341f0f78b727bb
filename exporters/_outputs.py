"""A model's output, whatever its form, as named tensors in a fixed order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from edgetx.errors import ExportError


def flatten(output: Any) -> dict[str, torch.Tensor]:
    """Name the tensors of a model's output, in the order in which it holds them.

    A tensor is `output`, the items of a sequence are `output_0`, `output_1`, ...; mappings, dataclasses and
    transformers' `ModelOutput` keep their keys, joined by `_` where they nest. `None` is left out.

    Raises:
        ExportError: the output holds something else than tensors, or none at all.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in _leaves(output, ""):
        if name in tensors:
            raise ExportError(f"the model returns two tensors named {name!r}; rename one of its outputs")
        tensors[name] = tensor
    if not tensors:
        raise ExportError(
            f"the model returns no tensor but {type(output).__name__}; return at least one tensor"
        )
    return tensors


def _leaves(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}_{key}" if name else str(key))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), f"{name}_{field.name}" if name else field.name)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        keys = getattr(value, "_fields", None)
        for index, item in enumerate(value):
            if keys is not None:
                yield from _leaves(item, f"{name}_{keys[index]}" if name else str(keys[index]))
            else:
                yield from _leaves(item, f"{name or 'output'}_{index}")
    else:
        raise ExportError(
            f"the model's output {name or 'itself'} is {type(value).__name__}; "
            "return tensors, or sequences, mappings or dataclasses of tensors"
        )
