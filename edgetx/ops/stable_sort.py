"""`torch.sort(stable=True)`, which PyTorch's exporter lacks, as ONNX `TopK`, stable by definition."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18 as op

OVERLOAD = torch.ops.aten.sort.stable


def translate(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Values and indices; of equal values, the lower index comes first either way."""
    size = op.Slice(op.Shape(x), [dim], [dim + 1 or 2**31], [0])
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)
