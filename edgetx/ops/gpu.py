"""What the Triton kernels share: whether they can run, and how large their blocks are.

Triton compiles them where PyTorch runs on an NVIDIA GPU; with TRITON_INTERPRET=1 in the environment before
Triton is first imported, its interpreter runs them on CPU tensors, for tests.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SMALLEST_BLOCK = 16
"""Of a matrix product's operands, along each axis."""
WIDEST_ALIGNMENT = 8
"""Elements of half precision that one load takes, 16 bytes."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a kernel cuts its work: rows of a block of queries and of keys, warps, pipeline stages."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 1

    def options(self) -> dict[str, int]:
        """The kernel's and the compiler's arguments."""
        return {
            "BLOCK_Q": self.queries,
            "BLOCK_K": self.keys,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


HALF_TILES = (Tile(64, 64), Tile(32, 64))
"""For half precision: all keys at once; fewer queries, where several blocks of keys follow."""
WIDE_TILES = (Tile(32, 32),)
"""For float32, whose rows fill registers twice as fast."""


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


def block(size: int) -> int:
    """The power of two, from `SMALLEST_BLOCK`, that holds `size`."""
    return max(1 << (size - 1).bit_length(), SMALLEST_BLOCK)


def alignment(*sizes: int) -> int:
    """The power of two up to `WIDEST_ALIGNMENT` that all sizes are multiples of."""
    return math.gcd(WIDEST_ALIGNMENT, *sizes)


def tile(queries: int, keys: int, dtype: torch.dtype) -> Tile:
    """The tile for windows of so many queries and keys; `cuda/launch.cc` has the rule too."""
    import torch

    if dtype == torch.float32:
        return WIDE_TILES[0]
    return HALF_TILES[0] if keys <= HALF_TILES[0].keys and queries > HALF_TILES[1].queries else HALF_TILES[1]


def numbers(first: int, end: int) -> list[int]:
    """Arguments that are numbers: one compiled kernel serves all of their values."""
    return list(range(first, end))
