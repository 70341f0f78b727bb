"""CRAFT (Li et al. 2023, arXiv:2308.05022), as spandrel 0.4.2 loads it (`CRAFT/__arch/CRAFT.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from edgetx.exporters._channels_last import DepthwiseConv, layer_norm, pointwise
from edgetx.exporters._pictures import Extension
from edgetx.exporters._restoration import RestorationFamily, Stages, Trunk, to_maps, to_tokens
from edgetx.exporters._windowed import Block, gather_bias, linear
from edgetx.ops import window_attention
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.CRAFT.__arch.CRAFT"


class RectangleAttention(nn.Module):
    """SRWAB's attention on NHWC: half of the channels in wide windows, half in tall ones, plus a 3x3 of v.

    Shifted windows are not masked in CRAFT. The halves' projections are separate, so that each gives the
    operator its own packed qkv.
    """

    def __init__(self, module: Any, biases: list[Tensor]) -> None:
        super().__init__()
        channels = module.dim
        half = channels // 2
        packed = torch.arange(3 * channels).reshape(3, 2, half)
        weight, bias = module.qkv.weight, module.qkv.bias
        self.qkv = nn.ModuleList(
            linear(weight[rows], None if bias is None else bias[rows])
            for rows in (packed[:, index].flatten() for index in range(2))
        )
        self.biases = nn.ParameterList(
            nn.Parameter(table.contiguous(), requires_grad=False) for table in biases
        )
        heads = module.attns[0].num_heads
        self.attributes = [
            WindowAttentionAttributes(
                num_heads=heads,
                head_size=half // heads,
                window=(attn.H_sp, attn.W_sp),
                shift=tuple(module.shift_size[::order]),
                scale=attn.scale,
            )
            for attn, order in zip(module.attns, (1, -1), strict=True)
        ]
        self.local = nn.ModuleList(
            DepthwiseConv(module.get_v, slice(index * half, (index + 1) * half), offset=2 * half)
            for index in range(2)
        )
        self.proj = module.proj

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for project, attributes, bias, local in zip(
            self.qkv, self.attributes, self.biases, self.local, strict=True
        ):
            qkv = project(x)
            outs.append(local(qkv, window_attention.apply(attributes, qkv, bias)))
        out: Tensor = self.proj(torch.cat(outs, dim=-1))
        return out


class HighFrequency(nn.Module):
    """HFERB on NCHW: a 3x3 convolution of half of the channels, a max-pooled projection of the others."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.conv = module.conv
        self.pool = module.max_pool
        self.fc = module.fc
        self.last = module.last_fc
        self.half_channels = module.mid_dim

    def forward(self, x: Tensor) -> Tensor:
        local, high = torch.split(x, self.half_channels, dim=1)
        both = torch.cat([self.conv(local), self.fc(self.pool(high))], dim=1)
        out: Tensor = self.last(nn.functional.gelu(both))
        return x + out


class ChannelAttention(nn.Module):
    """HFB's attention on NHWC: C x C over all tokens, queries from the high frequencies.

    All heads are one product, masked to the blocks on its diagonal. The l2 norms divide that small product
    instead of q and k, and the output projection multiplies it: one product over the tokens is left.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        channels, heads = module.dim, module.num_heads
        self.channels = channels
        self.q = pointwise(module.q)
        self.q_local = DepthwiseConv(module.q_dwconv)
        self.kv = pointwise(module.kv)
        self.kv_local = DepthwiseConv(module.kv_dwconv)
        self.out = pointwise(module.project_out)
        head = torch.arange(channels) // (channels // heads)
        other = torch.where(head[:, None] == head, 0.0, -torch.inf)
        self.register_buffer("mask", other, persistent=False)
        self.register_buffer("temperature", module.temperature.detach().reshape(-1)[head][:, None])

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        q = self.q_local(self.q(high)).flatten(1, 2)
        kv = self.kv_local(self.kv(low))
        k, v = torch.split(kv.flatten(1, 2), self.channels, dim=-1)
        norms = vector_norm(q, dim=1)[:, :, None] * vector_norm(k, dim=1, keepdim=True)
        products = q.transpose(1, 2) @ k * self.temperature / norms.clamp(min=1e-24)
        weights = self.out.weight @ (products + self.mask).softmax(dim=-1)
        mixed: Tensor = (v @ weights.transpose(1, 2)).reshape(low.shape)
        return mixed if self.out.bias is None else mixed + self.out.bias


class FeedForward(nn.Module):
    """HFB's feed-forward on NHWC: `gelu(depthwise) · depthwise` between two projections."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        half = module.hid_fea
        self.project_in = pointwise(module.project_in)
        self.value = DepthwiseConv(module.dwconv, slice(half, None), offset=half)
        self.gate = DepthwiseConv(module.dwconv, slice(half), activation="gelu", combine="multiply")
        self.project_out = pointwise(module.project_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        out: Tensor = self.project_out(self.gate(x, self.value(x)))
        return out


class Fusion(nn.Module):
    """One round of CRFB on NHWC: two rectangle blocks beside the high-frequency block, then HFB."""

    def __init__(self, blocks: list[nn.Module], high: Any, hybrid: Any) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.high = HighFrequency(high)
        self.norm1 = layer_norm(hybrid.norm1.body.weight, hybrid.norm1.body.bias)
        self.attention = ChannelAttention(hybrid.attn)
        self.norm2 = layer_norm(hybrid.norm2.body.weight, hybrid.norm2.body.bias)
        self.ffn = FeedForward(hybrid.ffn)

    def forward(self, x: Tensor) -> Tensor:
        low = self.blocks(x)
        low = low + self.attention(self.norm1(low), to_tokens(self.high(to_maps(x))))
        out: Tensor = low + self.ffn(self.norm2(low))
        return out


def _block(module: Any, tables: tuple[tuple[Tensor, Tensor], ...]) -> nn.Module:
    biases = [
        gather_bias(attn.pos(positions), index, (attn.H_sp, attn.W_sp))
        for attn, (positions, index) in zip(module.attns, tables, strict=True)
    ]
    mlp = nn.Sequential(module.mlp.fc1, module.mlp.act, module.mlp.fc2)
    return Block(module.norm1, RectangleAttention(module, biases), module.norm2, mlp)


def _model(model: Any) -> Trunk:
    tables = (
        (model.biases_h, model.relative_position_index_h),
        (model.biases_v, model.relative_position_index_v),
    )
    stages = []
    for layer in model.layers:
        group = layer.residual_group
        rounds = [
            Fusion([_block(group.srwa_blocks[2 * index + part], tables) for part in (0, 1)], high, hybrid)
            for index, (high, hybrid) in enumerate(zip(group.hfer_blocks, group.hf_blocks, strict=True))
        ]
        stages.append(Stages(rounds, layer.conv))
    return Trunk(
        model.conv_first,
        nn.Sequential(*stages, layer_norm(model.norm.body.weight, model.norm.body.bias)),
        model.conv_after_body,
        model.upsample,
        extension=Extension(model.window_size, beyond=True, kind="mirror"),
        multiple=model.window_size,
        scale=model.upscale,
        channels=model.conv_first.in_channels,
        out_channels=model.num_out_ch,
        halo=2 * model.window_size,
        mean=model.mean,
        value_range=model.img_range,
    )


class CRAFT(RestorationFamily):
    """CRAFT: rectangle windows, a high-frequency branch, and channel attention that fuses the two."""

    id = "craft"
    title = "CRAFT, image super-resolution"
    paper = "https://arxiv.org/abs/2308.05022"
    presets = {"craft_x4": "spandrel:CRAFT?upscale=4", "craft_x2": "spandrel:CRAFT?upscale=2"}
    models = {f"{_MODULE}.CRAFT": _model}
