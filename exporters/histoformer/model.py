"""Histoformer (Sun et al., ECCV 2024, arXiv:2407.10172): restoration in rain, snow and raindrops.

Written from the paper; where the authors' published code (`basicsr/models/archs/histoformer_arch.py`)
differs, the code's behaviour is kept, and names and shapes of the weights are those of its checkpoints:

- Layer norms have no weights. They run over the channels.
- The dynamic-range convolution sorts half of the channels along the height, then along the width, and the
  other half joins them unsorted; only that half of the attention's output is put back in place.
- Two pairs of queries and keys share the values, and are ordered as the values sort, channel by channel.
  "Bins" are consecutive runs of the sorted pixels, "frequencies" every n-th one, n the number of heads. Both
  attend across channels and bins, with cosine logits and `exp(x) / (1 + sum(exp(x)))`; the two answers are
  multiplied, not added.
- The feed-forward's two scales are a 5x5 and a dilated 3x3 convolution of the map at twice its size.
- The picture's 2x, 4x and 8x reductions join the encoder's levels.

Equal values are sorted by their position (the authors leave the order open), so that the answer is defined
for flat pictures too: ONNX's TopK has the same rule. The authors' network takes multiples of 8 only, and
their test script extends the picture by reflection; here the network does, and takes pictures of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgetx.errors import InputError
from edgetx.exporters._pictures import Extension, Places, crop

MULTIPLE = 8
"""Of height and width: three levels, each half as large as the one before."""
EXTENSION = Extension(MULTIPLE)

CHANNELS = 3
"""Of the picture; the code's reductions of the picture have no other number."""

EPS = 1e-5


class LayerNorm(nn.Module):
    """Over the channels of NCHW, without weights; `centred=False` does not subtract the mean."""

    def __init__(self, channels: int, *, centred: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        deviation = torch.sqrt((x - mean).square().mean(1, keepdim=True) + EPS)
        return ((x - mean) if self.centred else x) / deviation


class HistogramAttention(nn.Module):
    """Dynamic-range convolution, then bin-wise times frequency-wise attention; NCHW in and out."""

    def __init__(self, channels: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 5 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(5 * channels, 5 * channels, 3, padding=1, groups=5 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        sorted_half, rows = x[:, :half].sort(dim=2, stable=True)
        sorted_half, columns = sorted_half.sort(dim=3, stable=True)
        x = torch.cat([sorted_half, x[:, half:]], 1)

        q1, k1, q2, k2, v = self.qkv_dwconv(self.qkv(x)).flatten(2).chunk(5, dim=1)
        v, order = v.sort(dim=2, stable=True)
        q1, k1, q2, k2 = (part.gather(2, order) for part in (q1, k1, q2, k2))
        out = self._attend(q1, k1, v, bins=True) * self._attend(q2, k2, v, bins=False)
        out = self.project_out(torch.zeros_like(out).scatter(2, order, out).reshape(x.shape))

        moved = out[:, :half]
        moved = torch.zeros_like(moved).scatter(3, columns, moved)
        moved = torch.zeros_like(moved).scatter(2, rows, moved)
        return torch.cat([moved, out[:, half:]], 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, bins: bool) -> Tensor:
        """`[B, C, HW]`, sorted, each channel cut into `heads` parts; every part of a head sees all others."""
        batch, channels, pixels = q.shape
        size = (pixels + self.heads - 1) // self.heads
        shape = (batch, self.heads, channels // self.heads, self.heads, size)

        def split(x: Tensor) -> Tensor:
            x = functional.pad(x, (0, self.heads * size - pixels))
            if not bins:
                x = x.reshape(batch, channels, size, self.heads).transpose(2, 3)
            return x.reshape(shape).flatten(2, 3)

        q, k = (functional.normalize(split(part), dim=-1) for part in (q, k))
        weights = (q @ k.transpose(2, 3) * self.temperature).exp()
        out = (weights / (weights.sum(-1, keepdim=True) + 1)) @ split(v)
        if not bins:
            out = out.reshape(shape).transpose(3, 4)
        return out.reshape(batch, channels, self.heads * size)[..., :pixels]


class FeedForward(nn.Module):
    """Dual-scale gated feed-forward: `mish(dilated 3x3) * 5x5` at twice the size; NCHW in and out."""

    def __init__(self, channels: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        part = hidden // 4
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv_5 = nn.Conv2d(part, part, 5, padding=2, groups=part, bias=bias)
        self.dwconv_dilated2_1 = nn.Conv2d(part, part, 3, padding=2, dilation=2, groups=part, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        near, far = functional.pixel_shuffle(self.project_in(x), 2).chunk(2, dim=1)
        x = functional.mish(self.dwconv_dilated2_1(far)) * self.dwconv_5(near)
        out: Tensor = self.project_out(functional.pixel_unshuffle(x, 2))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and with a residual."""

    def __init__(self, channels: int, hidden: int, heads: int, *, bias: bool, centred: bool) -> None:
        super().__init__()
        self.attn_g = HistogramAttention(channels, heads, bias=bias)
        self.norm_g = LayerNorm(channels, centred=centred)
        self.ffn = FeedForward(channels, hidden, bias=bias)
        self.norm_ff1 = LayerNorm(channels, centred=centred)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn_g(self.norm_g(x))
        return x + self.ffn(self.norm_ff1(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """The picture's first features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(CHANNELS, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class SkipPatchEmbed(nn.Module):
    """The picture, or a reduction of it, at half its size."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class Resize(nn.Module):
    """A convolution and a shuffle: half the size and twice the channels, or the other way round."""

    def __init__(self, channels: int, *, down: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels // 2 if down else 2 * channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelUnshuffle(2) if down else nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class Histoformer(nn.Module):
    """RGB pictures `[B, 3, H, W]` of any size, 0 to 1, to their restored form; the range is not clipped.

    Args:
        dim: channels of the first level, even; each further level has twice as many.
        num_blocks: per level.
        num_refinement_blocks: after the decoder, at the picture's size.
        heads: per level; also the number of bins.
        ffn_expansion_factor: hidden channels of the feed-forward per channel, rounded down.
        bias: of the blocks' convolutions.
        centred: layer norms subtract the mean (`WithBias` in the authors' configuration).

    Raises:
        InputError: a level has channels that its heads do not divide, or hidden channels not a multiple of 4.
    """

    def __init__(
        self,
        dim: int = 36,
        num_blocks: Sequence[int] = (4, 4, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.667,
        bias: bool = False,
        centred: bool = True,
    ) -> None:
        super().__init__()
        if len(num_blocks) != 4 or len(heads) != 4 or dim < 2 or dim % 2:
            raise InputError(
                f"Histoformer has 4 levels and an even dim; got {dim=}, num_blocks={tuple(num_blocks)}, "
                f"heads={tuple(heads)}"
            )

        def stage(level: int, blocks: int, channels: int) -> nn.Sequential:
            hidden = int(channels * ffn_expansion_factor)
            if hidden < 4 or hidden % 4 or channels % heads[level]:
                raise InputError(
                    f"level {level} has {channels} channels, {heads[level]} heads and {hidden} hidden "
                    "channels; "
                    "heads must divide channels and 4 the hidden channels: "
                    f"change dim, heads or ffn_expansion_factor ({ffn_expansion_factor})"
                )
            return nn.Sequential(
                *(Block(channels, hidden, heads[level], bias=bias, centred=centred) for _ in range(blocks))
            )

        def reduce(channels: int, to: int) -> nn.Conv2d:
            return nn.Conv2d(channels, to, 1, bias=bias)

        first, second, third, last = (dim << level for level in range(4))
        self.patch_embed = PatchEmbed(first)
        self.encoder_level1 = stage(0, num_blocks[0], first)
        self.down1_2 = Resize(first, down=True)
        self.encoder_level2 = stage(1, num_blocks[1], second)
        self.down2_3 = Resize(second, down=True)
        self.encoder_level3 = stage(2, num_blocks[2], third)
        self.down3_4 = Resize(third, down=True)
        self.latent = stage(3, num_blocks[3], last)
        self.up4_3 = Resize(last, down=False)
        self.reduce_chan_level3 = reduce(last, third)
        self.decoder_level3 = stage(2, num_blocks[2], third)
        self.up3_2 = Resize(third, down=False)
        self.reduce_chan_level2 = reduce(third, second)
        self.decoder_level2 = stage(1, num_blocks[1], second)
        self.up2_1 = Resize(second, down=False)
        self.decoder_level1 = stage(0, num_blocks[0], second)
        self.refinement = stage(0, num_refinement_blocks, second)
        self.skip_patch_embed1 = SkipPatchEmbed()
        self.skip_patch_embed2 = SkipPatchEmbed()
        self.skip_patch_embed3 = SkipPatchEmbed()
        self.reduce_chan_level_1 = reduce(second + CHANNELS, second)
        self.reduce_chan_level_2 = reduce(third + CHANNELS, third)
        self.reduce_chan_level_3 = reduce(last + CHANNELS, last)
        self.output = nn.Conv2d(second, CHANNELS, 3, padding=1, bias=bias)

    def places(self, image: Tensor) -> Places:
        """See `Extension.places`."""
        return EXTENSION.places(image)

    def forward(self, image: Tensor, places: Places = ()) -> Tensor:
        height, width = image.shape[-2:]
        x = EXTENSION(image, places)
        return crop(x + self.restoration(x), height, width)

    def restoration(self, x: Tensor) -> Tensor:
        """What is added to the extended picture."""
        level1 = self.encoder_level1(self.patch_embed(x))
        small = self.skip_patch_embed1(x)
        level2 = self.encoder_level2(self.reduce_chan_level_1(torch.cat([self.down1_2(level1), small], 1)))
        small = self.skip_patch_embed2(small)
        level3 = self.encoder_level3(self.reduce_chan_level_2(torch.cat([self.down2_3(level2), small], 1)))
        small = self.skip_patch_embed3(small)
        level4 = self.latent(self.reduce_chan_level_3(torch.cat([self.down3_4(level3), small], 1)))

        out = self.reduce_chan_level3(torch.cat([self.up4_3(level4), level3], 1))
        out = self.reduce_chan_level2(torch.cat([self.up3_2(self.decoder_level3(out)), level2], 1))
        out = self.decoder_level1(torch.cat([self.up2_1(self.decoder_level2(out)), level1], 1))
        restored: Tensor = self.output(self.refinement(out))
        return restored
