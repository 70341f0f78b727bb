"""SCUNet (Zhang et al. 2022, arXiv:2203.13278), as spandrel 0.4.2 loads it (`SCUNet/__arch/SCUNet.py`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgetx.exporters._restoration import RestorationFamily, Trunk, to_maps, to_tokens
from edgetx.exporters._windowed import Block, WindowAttention, linear
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.SCUNet.__arch.SCUNet"
MULTIPLE = 64
"""Of height and width: windows of 8 after three halvings."""
MASKED = -30000.0
"""Stands for the -inf of the library's mask: no logit makes up for it, and half precision holds it."""


def _attention(module: Any) -> WindowAttention:
    size, heads = module.window_size, module.n_heads
    shift = 0 if module.type == "W" else size // 2
    attributes = WindowAttentionAttributes(
        num_heads=heads,
        head_size=module.head_dim,
        window=(size, size),
        shift=(shift, shift),
        mask="region" if shift else "none",
        mask_value=MASKED,
        scale=module.scale,
    )
    return WindowAttention(module.embedding_layer, module.linear, attributes, module.relative_embedding())


class ConvTransBlock(nn.Module):
    """Half of the channels through two convolutions, half through a Swin block. NHWC."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        convolved = module.conv_dim
        weight, bias = module.conv1_1.weight.detach()[:, :, 0, 0], module.conv1_1.bias.detach()
        self.to_conv = linear(weight[:convolved], bias[:convolved])
        self.to_trans = linear(weight[convolved:], bias[convolved:])
        self.conv = module.conv_block
        inner = module.trans_block
        self.trans = Block(inner.ln1, _attention(inner.msa), inner.ln2, inner.mlp)
        weight = module.conv1_2.weight.detach()[:, :, 0, 0]
        self.from_conv = linear(weight[:, :convolved], None)
        self.from_trans = linear(weight[:, convolved:], module.conv1_2.bias)

    def forward(self, x: Tensor) -> Tensor:
        maps = to_maps(self.to_conv(x))
        convolved = to_tokens(self.conv(maps) + maps)
        trans = self.trans(self.to_trans(x))
        out: Tensor = x + self.from_conv(convolved) + self.from_trans(trans)
        return out


class Halve(nn.Module):
    """A 2x2 convolution of stride 2 as a Linear on rows of four neighbours: NHWC to half of its sides."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)
        self.linear = linear(conv.weight.detach().permute(0, 2, 3, 1).flatten(1), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        rows, columns = height // 2, width // 2
        x = x.reshape(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = self.linear(x.reshape(batch, rows, columns, 4 * channels))
        return out


class Double(nn.Module):
    """A transposed 2x2 convolution of stride 2 as a Linear and a transpose: NHWC to twice its sides."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        assert conv.kernel_size == conv.stride == (2, 2) and conv.padding == (0, 0)
        weight = conv.weight.detach().permute(2, 3, 1, 0)
        bias = None if conv.bias is None else conv.bias.detach().repeat(4)
        self.linear = linear(weight.flatten(0, 2).contiguous(), bias)
        self.channels = conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x = self.linear(x).reshape(batch, height, width, 2, 2, self.channels).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, 2 * height, 2 * width, self.channels)


class Body(nn.Module):
    """Three levels down, the middle, three up, each up after the sum with what left that level. NHWC."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.down, self.halves = nn.ModuleList(), nn.ModuleList()
        for level in (model.m_down1, model.m_down2, model.m_down3):
            *blocks, conv = level
            self.down.append(nn.Sequential(*map(ConvTransBlock, blocks)))
            self.halves.append(Halve(conv))
        self.middle = nn.Sequential(*map(ConvTransBlock, model.m_body))
        self.doubles, self.up = nn.ModuleList(), nn.ModuleList()
        for level in (model.m_up3, model.m_up2, model.m_up1):
            conv, *blocks = level
            self.doubles.append(Double(conv))
            self.up.append(nn.Sequential(*map(ConvTransBlock, blocks)))

    def forward(self, x: Tensor) -> Tensor:
        left = []
        for down, halve in zip(self.down, self.halves, strict=True):
            x = halve(down(x))
            left.append(x)
        x = self.middle(x)
        for double, up in zip(self.doubles, self.up, strict=True):
            x = up(double(x + left.pop()))
        return x


def _model(model: Any) -> Trunk:
    (first,), (last,) = model.m_head, model.m_tail
    return Trunk(
        first,
        Body(model),
        nn.Identity(),
        last,
        multiple=MULTIPLE,
        scale=1,
        channels=first.in_channels,
        out_channels=last.out_channels,
        halo=MULTIPLE,
    )


class SCUNet(RestorationFamily):
    """SCUNet: a U-Net of blocks that are half convolution, half shifted windows."""

    id = "scunet"
    title = "SCUNet, image denoising"
    paper = "https://arxiv.org/abs/2203.13278"
    presets = {"scunet": "spandrel:SCUNet"}
    models = {f"{_MODULE}.SCUNet": _model}
