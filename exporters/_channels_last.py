"""Convolutions and norms of NCHW models as layers on NHWC tokens; they hold the library's own weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.exporters._windowed import linear
from edgetx.ops import depthwise_conv
from edgetx.ops.depthwise_conv import DepthwiseConvAttributes


class DepthwiseConv(nn.Module):
    """`edgetx::depthwise_conv` with the weights of a depthwise `nn.Conv2d` of stride 1 and same padding.

    Args:
        conv: its channels, or those of `channels`, are convolved.
        channels: which of the convolution's channels; all by default.
        settings: the operator's attributes.
    """

    def __init__(self, conv: nn.Conv2d, channels: slice = slice(None), **settings: Any) -> None:
        super().__init__()
        sides = tuple(side // 2 for side in conv.kernel_size)
        assert conv.groups == conv.in_channels == conv.out_channels and conv.padding == sides
        assert conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.attributes = DepthwiseConvAttributes(**settings)
        self.register_buffer(
            "weight", conv.weight.detach()[channels, 0].permute(1, 2, 0).contiguous(), persistent=False
        )
        self.register_buffer("bias", bias[channels].contiguous(), persistent=False)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return depthwise_conv.apply(self.attributes, x, self.weight, self.bias, other)  # type: ignore[arg-type]


def pointwise(conv: nn.Conv2d) -> nn.Linear:
    """A 1x1 convolution as a Linear over the last axis."""
    assert conv.kernel_size == (1, 1) and conv.groups == 1 and conv.stride == (1, 1)
    return linear(conv.weight.detach()[:, :, 0, 0], conv.bias)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution and the BatchNorm after it, in eval mode, as one convolution."""
    return torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)


def layer_norm(weight: Tensor, bias: Tensor, eps: float = 1e-5) -> nn.LayerNorm:
    """A LayerNorm over the last axis around existing tensors `[C]`."""
    norm = nn.LayerNorm(weight.shape[0], eps=eps, device="meta")
    norm.weight, norm.bias = (
        tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        for tensor in (weight, bias)
    )
    return norm
