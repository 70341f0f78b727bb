"""Which kernels are shipped, and for which GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from edgetx.ops import gpu

WINDOW, GROUP, CHAIN = "window_attention_kernel", "group_attention_kernel", "chain_kernel"
NO_TILE = gpu.Tile(0, 0)


@dataclass(frozen=True, slots=True)
class Family:
    """GPUs that one PTX serves.

    Attributes:
        capabilities: compute capabilities times ten; Triton compiles for the first.
        ptx: version of the PTX, times ten: no newer than the oldest driver takes that we want to run on.
        new_assembler: the capabilities that Triton's first ptxas, of CUDA 12.8, does not know.
    """

    capabilities: tuple[int, ...]
    ptx: int
    new_assembler: tuple[int, ...] = ()


FAMILIES = (
    Family((75,), 85),
    Family((80, 86, 87, 89), 85),
    Family((90,), 85),
    Family((110,), 90, new_assembler=(110,)),
    Family((120, 121), 87, new_assembler=(121,)),
)
"""Turing; Ampere (data centre, RTX, Orin) and Ada; Hopper; Thor; Blackwell RTX and GB10.

PTX 8.5 is that of CUDA 12.5 and 12.6, which JetPack 6 has; 9.0 that of CUDA 13.0, which JetPack 7 has; 8.7
that of CUDA 12.8, the first that knows Blackwell RTX (cuda-python's `cuda/bindings/utils/_ptx_utils.py`).
"""
CAPABILITIES = tuple(each for family in FAMILIES for each in family.capabilities)
PTX_CAPABILITY = 80
"""PTX of this one is shipped too: the driver of a later GPU without a cubin of its own compiles it."""


@dataclass(frozen=True, slots=True)
class Config:
    """One kernel to compile.

    Attributes:
        kernel: its name.
        dtype: `fp32`, `fp16`, `bf16`, or `none`.
        tile: rows of its blocks.
        size: the largest head size, a power of two.
        align: what head sizes are a multiple of.
        variant: 1 for the l2 norm of WindowAttention and for the relu2 of GroupAttention.
    """

    kernel: str
    dtype: str = "none"
    tile: gpu.Tile = NO_TILE
    size: int = 0
    align: int = 1
    variant: int = 0

    @property
    def variant_name(self) -> str:
        """The variant in the operators' words."""
        return {WINDOW: ("", "l2"), GROUP: ("softmax", "relu2"), CHAIN: ("", "")}[self.kernel][self.variant]


def configs(capability: int) -> list[Config]:
    """What is shipped for one GPU.

    Head sizes that are multiples of 8, where loads are 16 bytes wide, have blocks of 16, 32 and 64 channels,
    as most models have; even ones up to 32 (HAT's 30) load four bytes at once; all others, up to 128, share
    blocks of 32 and 128 channels. l2 is SwinV2's, of 32 channels, relu2 MossFormer's, of 128.
    """
    made = [Config(CHAIN)]
    # Triton has no tensor cores for Turing: products are computed number by number, as those of float32.
    scalar = capability < 80
    for dtype in ("fp16", "bf16", "fp32"):
        wide = scalar or dtype == "fp32"
        tiles = gpu.WIDE_TILES if wide else gpu.HALF_TILES
        looping = tiles[-1]
        made += [Config(WINDOW, dtype, tile, size, 8) for size in (16, 32) for tile in tiles]
        made += [Config(WINDOW, dtype, tile, 32, 8, 1) for tile in tiles]
        made += [Config(GROUP, dtype, looping, size, 8) for size in (16, 32)]
        # More warps, or fewer rows, where four warps would spill registers.
        wide64 = gpu.Tile(32, 32, warps=8) if wide else looping
        any32 = gpu.Tile(32, 32)
        any128 = gpu.Tile(16, 16, warps=8 if scalar else 4) if wide else gpu.Tile(32, 32, warps=8)
        for kernel in (WINDOW, GROUP):
            made.append(Config(kernel, dtype, wide64 if kernel == WINDOW else looping, 64, 8))
            made.append(Config(kernel, dtype, looping, 32, 2))
            made.append(Config(kernel, dtype, any32, 32))
            made += [Config(kernel, dtype, any128, 128, variant=variant) for variant in (0, 1)]
    return made
