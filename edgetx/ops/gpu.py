"""What the Triton kernels share: whether they can run, and how large their blocks are.

Triton compiles them where PyTorch runs on an NVIDIA GPU; with TRITON_INTERPRET=1 in the environment before
Triton is first imported, its interpreter runs them on CPU tensors, for tests.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SMALLEST_BLOCK = 16
"""Of a matrix product's operands, along each axis."""
LARGEST_BLOCK = 64
"""Of queries or keys: 64 rows of 32 channels and their logits stay in the registers of four warps."""
LARGEST_LOOPING_BLOCK = 32
"""Of queries, where more than one block of keys follows, and of both in float32: 64 rows spill registers."""


def why_not(tensor: torch.Tensor) -> str | None:
    """None if the kernels take a tensor of this device and dtype, else the reason."""
    import torch

    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the Triton kernels take float32, float16 and bfloat16, not {tensor.dtype}"
    if not _installed():
        return "the Triton kernels need Triton; pip install triton"
    if tensor.device.type == "cpu":
        return None if interpreted() else "on the CPU, Triton only interprets: set TRITON_INTERPRET=1"
    return None if tensor.device.type == "cuda" else f"the Triton kernels do not run on {tensor.device}"


def takes(tensor: torch.Tensor) -> bool:
    """Whether the kernels compute a tensor on a GPU; says once why they do not."""
    if not tensor.is_cuda:
        return False
    reason = why_not(tensor)
    if reason is not None:
        _say(reason)
    return reason is None


@functools.cache
def _say(reason: str) -> None:
    logger.warning("edgetx's operators run as plain PyTorch: %s", reason)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def upcast(dtype: torch.dtype) -> bool:
    """Whether products need float32 operands: the interpreter multiplies bfloat16's bits as integers.

    The product of two bfloat16 or float16 is exact in float32, so the result is the compiled kernel's.
    """
    import torch

    return interpreted() and dtype == torch.bfloat16


def block(size: int, most: int = LARGEST_BLOCK) -> int:
    """The power of two, from `SMALLEST_BLOCK` to `most`, that holds `size` or is largest."""
    return min(max(1 << (size - 1).bit_length(), SMALLEST_BLOCK), most)


def blocks(queries: int, keys: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of a block of queries and of a block of keys; no registers spill on sm_80 and sm_120."""
    import torch

    loops = keys > LARGEST_BLOCK
    wide = dtype == torch.float32
    block_q = block(queries, LARGEST_LOOPING_BLOCK if wide or loops else LARGEST_BLOCK)
    return block_q, block(keys, LARGEST_LOOPING_BLOCK if wide and loops else LARGEST_BLOCK)
