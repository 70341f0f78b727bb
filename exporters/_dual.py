"""What DAT and RGT share: windows that lie for half of the heads and stand for the others, and gated MLPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters._channels_last import DepthwiseConv
from edgetx.exporters._pictures import WHOLE
from edgetx.exporters._restoration import Stages, Trunk
from edgetx.exporters._windowed import WindowAttention, gather_bias, linear
from edgetx.ops import window_attention
from edgetx.ops.window_attention import WindowAttentionAttributes


class HalfAttention(WindowAttention):
    """Packed projection, `edgetx::window_attention` of half of the heads, and a depthwise 3x3 of v beside it.

    The map is padded after the projection, with zeros, and the convolution sees it unpadded.

    Args:
        qkv: `[B, H, W, C]` to the half's q, k and v, of C/2 channels each.
        attributes, bias: as the operator takes them.
        local: reads v in the packed projection.
        add: the convolution is added to the attention instead of returned beside it.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        attributes: WindowAttentionAttributes,
        bias: Tensor,
        local: DepthwiseConv,
        *,
        add: bool,
    ) -> None:
        super().__init__(qkv, nn.Identity(), attributes, bias)
        self.local = local
        self.add = add

    def forward(self, x: Tensor) -> Any:
        qkv = self.qkv(x)
        out = window_attention.apply(self.attributes, qkv, self.bias)
        return self.local(qkv, out) if self.add else (out, self.local(qkv))


class GatedMlp(nn.Module):
    """Half of the hidden channels times a depthwise 3x3 of the other half, normalised. NHWC in and out.

    `fc1` is two layers, so that its halves are tensors of their own.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        weight, bias = module.fc1.weight, module.fc1.bias
        half = weight.shape[0] // 2
        self.kept = linear(weight[:half], None if bias is None else bias[:half])
        self.gate = linear(weight[half:], None if bias is None else bias[half:])
        self.act = module.act
        self.norm = module.sg.norm
        self.conv = DepthwiseConv(module.sg.conv, combine="multiply")
        self.fc2 = module.fc2

    def forward(self, x: Tensor) -> Tensor:
        gate = self.norm(self.act(self.gate(x)))
        out: Tensor = self.fc2(self.conv(gate, self.act(self.kept(x))))
        return out


def halves(
    module: Any, conv: nn.Conv2d, *, shifted: bool, add: bool, activation: str = "none"
) -> nn.ModuleList:
    """The two `HalfAttention` of a library's split-window attention.

    Both of the halves' windows tile a map whose sides are multiples of the longer side of the window.

    Args:
        module: has `qkv`, `split_size`, `shift_size` and two `attns`.
        conv: depthwise 3x3 of v.
        shifted: the windows are shifted, and masked where they cross the map's border.
        add, activation: of the convolution's result.
    """
    channels = module.qkv.in_features
    half = channels // 2
    packed = torch.arange(3 * channels).reshape(3, 2, half)
    weight, bias = module.qkv.weight, module.qkv.bias
    longest = max(module.split_size)
    made = []
    for index, attn in enumerate(module.attns):
        rows = packed[:, index].flatten()
        window = (attn.H_sp, attn.W_sp)
        shift = tuple(module.shift_size)[:: 1 if index == 0 else -1]
        attributes = WindowAttentionAttributes(
            num_heads=attn.num_heads,
            head_size=half // attn.num_heads,
            window=window,
            shift=shift if shifted else (0, 0),
            mask="region" if shifted else "none",
            scale=attn.scale,
            pad="before_roll",
            pad_to=(longest, longest),
        )
        made.append(
            HalfAttention(
                linear(weight[rows], None if bias is None else bias[rows]),
                attributes,
                gather_bias(attn.pos(attn.rpe_biases), attn.relative_position_index, window),
                DepthwiseConv(
                    conv, slice(index * half, (index + 1) * half), offset=2 * half, activation=activation
                ),
                add=add,
            )
        )
    return nn.ModuleList(made)


def is_shifted(group: int, block: int) -> bool:
    """Whether a block has shifted windows: blocks 2, 6, ... of even groups, 0, 4, ... of odd ones."""
    return block % 4 == (2 if group % 2 == 0 else 0)


def trunk(model: Any, block: Callable[[Any], nn.Module], tail: nn.Module) -> Trunk:
    """The whole model around its blocks. It takes any size: the windows pad the map themselves."""
    stages = [Stages([block(inner) for inner in layer.blocks], layer.conv) for layer in model.layers]
    channels = model.conv_first.in_channels
    longest = max(model.layers[0].blocks[0].attn.split_size)
    return Trunk(
        model.conv_first,
        nn.Sequential(model.before_RG[1], *stages, model.norm),
        model.conv_after_body,
        tail,
        multiple=longest,
        extension=WHOLE,
        scale=model.upscale,
        channels=channels,
        out_channels=channels,
        halo=max(32, longest),
        mean=model.mean,
        value_range=model.img_range,
    )
