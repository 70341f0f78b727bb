"""RAT, the Region Attention Transformer (Yang et al., MICCAI 2024, arXiv:2407.09268).

Written from the paper; where the authors' published code (`Model_RAT.py`) differs, the code's behaviour is
kept, and names and shapes of the weights are those of its checkpoints:

- Logits are scaled by `heads^-1/2`, not by the head size, in region and window attention alike.
- Regions are not cut into groups of one length: every token attends to all tokens of its region. The authors
  add -1000 to the logits of all other pairs; here those pairs are left out, which is the same in float32 as
  long as logits differ by less than about 900.
- The region of a token, one of the map's `stride` x `stride` pixels, is that of its first pixel.
- The authors' code takes multiples of `stride · window` (16) only. Any other size is continued below and to
  the right by reflection, picture and region map alike, and the answer is cut.
- Their region map has the answer's size. Here it has the picture's, and is repeated `scale` times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.exporters._pictures import Extension, crop


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of NCHW."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        last = functional.layer_norm(
            x.permute(0, 2, 3, 1), (self.weight.shape[0],), self.weight, self.bias, self.eps
        )
        return last.permute(0, 3, 1, 2)


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """A block of NAFNet (Chen et al. 2022, arXiv:2204.04676), NCHW: no activation but products of halves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(gated * self.sca(gated))
        x = x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))
        return x


class MLP(nn.Module):
    """Two 1x1 convolutions around a GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class RegionMask(nn.Module):
    """`[B, h, w]` region ids to `[B, 1, h·w, h·w]`: whether two tokens are of one region."""

    def forward(self, regions: Tensor) -> Tensor:
        ids = regions.flatten(1)
        return (ids[:, :, None] == ids[:, None, :]).unsqueeze(1)


class RegionAttention(nn.Module):
    """Attention of every token to all tokens of its region."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        packed = self.qkv(x).reshape(batch, 3, self.num_heads, channels // self.num_heads, height * width)
        q, k, v = packed.transpose(-2, -1).unbind(1)
        out = functional.scaled_dot_product_attention(q, k, v, mask, scale=self.num_heads**-0.5)
        projected: Tensor = self.project_out(out.transpose(-2, -1).reshape(batch, channels, height, width))
        return projected


class WindowAttention(nn.Module):
    """Attention inside windows that fill the map, neither shifted nor biased."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        side = self.window_size
        rows, columns = height // side, width // side
        windows = x.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        packed = self.qkv(windows.reshape(-1, side * side, channels))
        packed = packed.unflatten(-1, (3, self.num_heads, channels // self.num_heads))
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v, scale=self.num_heads**-0.5)
        out = self.proj_out(out.transpose(1, 2).reshape(-1, side * side, channels))
        out = out.reshape(batch, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
        maps: Tensor = out.reshape(batch, channels, height, width)
        return maps


class Layer(nn.Module):
    """Region attention and an MLP, then window attention and an MLP; each attention with a learned factor."""

    def __init__(self, channels: int, num_heads: int, window_size: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm_ra = LayerNorm2d(channels)
        self.ra = RegionAttention(channels, num_heads)
        self.lambda_ra = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm_ra_mlp = LayerNorm2d(channels)
        self.mlp_ra = MLP(channels, hidden)
        self.norm_wa = LayerNorm2d(channels)
        self.wa = WindowAttention(channels, num_heads, window_size)
        self.lambda_wa = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm_wa_mlp = LayerNorm2d(channels)
        self.mlp_wa = MLP(channels, hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.lambda_ra * self.ra(self.norm_ra(x), mask)
        x = x + self.mlp_ra(self.norm_ra_mlp(x))
        x = x + self.lambda_wa * self.wa(self.norm_wa(x))
        x = x + self.mlp_wa(self.norm_wa_mlp(x))
        return x


class Block(nn.Module):
    """Layers and a convolution around a residual. What `regions` is, `RAT.partition` decides."""

    def __init__(
        self, layers: int, channels: int, num_heads: int, window_size: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(channels, num_heads, window_size, mlp_ratio) for _ in range(layers))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, regions: Any) -> Tensor:
        tokens = x
        for layer in self.layers:
            tokens = layer(tokens, regions)
        out: Tensor = x + self.conv(tokens)
        return out


class RAT(nn.Module):
    """A U-Net of NAF blocks whose middle, at 1/4 of the resolution, attends by regions and by windows.

    The defaults are the authors' configuration.

    Args:
        channels: of the picture.
        width: channels after the first convolution, doubled by every encoder; the deepest map's must be a
            multiple of `num_heads`.
        blocks: of the middle, `layers` layers each.
        encoders, decoders: NAF blocks per resolution, from the picture's to the deepest and back.
        num_heads, window_size, mlp_ratio: of the middle's layers.
        scale: the picture is enlarged bilinearly by this before anything else.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        width: int = 64,
        blocks: int = 4,
        layers: int = 3,
        encoders: Sequence[int] = (2, 2),
        decoders: Sequence[int] = (2, 2),
        num_heads: int = 8,
        window_size: int = 4,
        mlp_ratio: float = 2.0,
        scale: int = 1,
    ) -> None:
        super().__init__()
        if len(encoders) != len(decoders) or (width << len(encoders)) % num_heads:
            raise ValueError(
                f"RAT with {encoders=}, {decoders=}, {width=}, {num_heads=}; expected as many decoders as "
                "encoders, and heads that divide width · 2^encoders"
            )
        self.channels = channels
        self.scale = scale
        self.stride = 1 << len(encoders)
        self.multiple = self.stride * window_size
        self.intro = nn.Conv2d(channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, channels, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        for count in encoders:
            self.encoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(count))))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, 2))
            width *= 2
        self.partition = RegionMask()
        self.middle_blks = nn.ModuleList(
            Block(layers, width, num_heads, window_size, mlp_ratio) for _ in range(blocks)
        )
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for count in decoders:
            up = nn.Conv2d(width, 2 * width, 1, bias=False)
            self.ups.append(nn.Sequential(up, nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(nn.Sequential(*(NAFBlock(width) for _ in range(count))))

    def forward(self, image: Tensor, regions: Tensor) -> Tensor:
        """Restore a picture.

        Args:
            image: `[B, channels, H, W]` float32, values from 0 to 1, any size.
            regions: `[B, H, W]` int32 or int64; equal numbers are one region, whatever the numbers are.

        Returns:
            `[B, channels, scale·H, scale·W]`.
        """
        regions = regions.unsqueeze(1)
        if self.scale > 1:
            image = functional.interpolate(image, scale_factor=float(self.scale), mode="bilinear")
            regions = regions.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        height, width = image.shape[-2:]
        extension = Extension(self.multiple)
        image = extension(image)
        regions = extension(regions)[:, 0, :: self.stride, :: self.stride]
        x = self.intro(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        shortcut, shared = x, self.partition(regions)
        for block in self.middle_blks:
            x = block(x, shared)
        x = x + shortcut
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return crop(image + self.ending(x), height, width)
