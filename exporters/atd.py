"""ATD (Zhang et al. 2024, arXiv:2401.08209), as spandrel 0.4.2 loads it (`ATD/__arch/atd_arch.py`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from edgetx.core import Rewrite
from edgetx.exporters._channels_last import DepthwiseConv
from edgetx.exporters._pictures import Extension
from edgetx.exporters._restoration import RestorationFamily, Trunk, tail, to_maps, to_tokens
from edgetx.exporters._windowed import WindowAttention, gather_bias
from edgetx.ops import group_attention, window_attention
from edgetx.ops.group_attention import GroupAttentionAttributes
from edgetx.ops.window_attention import WindowAttentionAttributes

_MODULE = "spandrel.architectures.ATD.__arch.atd_arch"
NOTE = (
    "ATD puts each token into the category that it resembles most: where the two best are equal up to "
    "rounding, PyTorch and the package may choose differently, and pixels around it differ a little"
)


class Slots(NamedTuple):
    """How the sorted tokens of a picture fill its groups; the same in every layer.

    Attributes:
        size: of a group.
        rank: int64 `[slots]`, the sorted token in each slot: the last group is filled with the tokens
            before its end, backwards.
        owned: int32 `[B·N]`, the slot, among all pictures', of each sorted token.
        first: int64 `[B, 1]`, the first token of each picture.
    """

    size: Any
    rank: Tensor
    owned: Tensor
    first: Tensor


def fill(tokens: Tensor, largest: int) -> Slots:
    """For `[B, N, ...]` in groups of `largest`, or of N if that is less."""
    batch, count = tokens.shape[:2]
    size = torch.sym_min(count, largest)  # type: ignore[no-untyped-call]
    total = (count + largest - 1) // largest * size
    slot = torch.arange(total, device=tokens.device)
    picture = torch.arange(batch, device=tokens.device).unsqueeze(1)
    owned = (torch.arange(count, device=tokens.device) + picture * total).reshape(-1).int()
    return Slots(size, torch.minimum(slot, 2 * count - 1 - slot), owned, picture * count)


class CategoryAttention(nn.Module):
    """AC-MSA: tokens sorted by the dictionary's entry that they resemble most, in groups of equal size.

    Within a category the tokens keep their order, as a stable sort does. The library leaves that open.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.attributes = GroupAttentionAttributes(
            num_heads=module.num_heads,
            scale=module.logit_scale.detach().clamp(max=math.log(100.0)).exp().item(),
        )
        self.proj = module.proj

    def forward(self, qkv: Tensor, similar: Tensor, slots: Slots) -> Tensor:
        """Packed `[B, H, W, 3C]` and similarities `[B, N, M]` to `[B, H, W, C]`."""
        count = similar.shape[1]
        # The token's own number makes the keys distinct, so that any sort is a stable one.
        keys = similar.argmax(-1) * count + torch.arange(count, device=similar.device)
        order = torch.sort(keys, dim=-1).indices + slots.first
        groups = order.index_select(1, slots.rank).reshape(-1, slots.size).int()
        inverse = torch.zeros_like(slots.owned).scatter(0, order.reshape(-1), slots.owned)
        q, k, v = qkv.flatten(0, 2).chunk(3, dim=-1)
        out = group_attention.apply(self.attributes, q, k, v, groups, inverse)
        projected: Tensor = self.proj(out.reshape(*qkv.shape[:3], -1))
        return projected


class DictionaryAttention(nn.Module):
    """ATD_CA: cosine attention from the tokens to the dictionary."""

    temperature: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.q, self.k, self.v = module.wq, module.wk, module.wv
        factor = 1 + module.scale.detach().clamp(0, 1) * math.log(module.num_tokens)
        self.register_buffer("temperature", factor[:, None], persistent=False)

    def forward(self, tokens: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, N, C]` and `[B, M, C]` to `[B, N, C]` and the similarities `[B, N, M]`."""
        q = _normalized(self.q(tokens))
        k = _normalized(self.k(dictionary)) * self.temperature
        similar = (q @ k.transpose(1, 2)).softmax(dim=-1)
        return similar @ self.v(dictionary), similar


def _normalized(x: Tensor) -> Tensor:
    unit: Tensor = x / vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


class Attention(WindowAttention):
    """The three attentions of a layer and their sum with `x`; windows and categories share one projection."""

    def __init__(self, module: Any, index: Tensor) -> None:
        windows = module.attn_win
        attributes = WindowAttentionAttributes(
            num_heads=windows.num_heads,
            head_size=windows.dim // windows.num_heads,
            window=windows.window_size,
            shift=(module.shift_size, module.shift_size),
            mask="region" if module.shift_size else "none",
            scale=windows.scale,
        )
        bias = gather_bias(windows.relative_position_bias_table, index, windows.window_size)
        super().__init__(module.wqkv, windows.proj, attributes, bias)
        self.norm = module.norm1
        self.dictionary = DictionaryAttention(module.attn_atd)
        self.categories = CategoryAttention(module.attn_aca)

    def forward(self, x: Tensor, dictionary: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """`[B, H, W, C]` and `[B, M, C]` to the former and the similarities `[B, N, M]`."""
        normed = self.norm(x)
        qkv = self.qkv(normed)
        from_dictionary, similar = self.dictionary(normed.flatten(1, 2), dictionary)
        # In this order the projection's bias, the last sum and the norm after it are one operator.
        x = x + from_dictionary.reshape(x.shape)
        x = x + self.categories(qkv, similar, slots)
        return x + self.proj(window_attention.apply(self.attributes, qkv, self.bias)), similar


class FeedForward(nn.Module):
    """ConvFFN on NHWC: a depthwise convolution with a residual between two projections."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = module.fc1, module.act, module.fc2
        self.conv = DepthwiseConv(module.dwconv.depthwise_conv[0], activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        out: Tensor = self.fc2(self.conv(x, x))
        return out


class Refinement(nn.Module):
    """The dictionary moves towards the tokens that resemble it, by a share per entry."""

    kept: Tensor

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.norm = module.norm3
        self.register_buffer("kept", module.sigma.detach().sigmoid(), persistent=False)

    def forward(self, x: Tensor, dictionary: Tensor, similar: Tensor) -> Tensor:
        """`[B, H, W, C]`, `[B, M, C]` and `[B, N, M]` to the next dictionary."""
        weights = self.norm(similar.transpose(1, 2)).softmax(dim=-1)
        refined: Tensor = self.kept * dictionary + (1 - self.kept) * (weights @ x.flatten(1, 2))
        return refined


class Layer(nn.Module):
    """One layer on NHWC; the last of a group has no use for the next dictionary."""

    def __init__(self, module: Any, index: Tensor) -> None:
        super().__init__()
        self.attention = Attention(module, index)
        self.norm = module.norm2
        self.ffn = FeedForward(module.convffn)
        self.refinement = None if module.is_last else Refinement(module)

    def forward(self, x: Tensor, dictionary: Tensor, slots: Slots) -> tuple[Tensor, Tensor]:
        x, similar = self.attention(x, dictionary, slots)
        x = x + self.ffn(self.norm(x))
        if self.refinement is not None:
            dictionary = self.refinement(x, dictionary, similar)
        return x, dictionary


class Group(nn.Module):
    """Layers around a dictionary of the group's own, a convolution and a residual. NHWC."""

    def __init__(self, module: Any, index: Tensor) -> None:
        super().__init__()
        group = module.residual_group
        self.dictionary = group.td
        self.layers = nn.ModuleList(Layer(layer, index) for layer in group.layers)
        self.conv = module.conv

    def forward(self, x: Tensor, slots: Slots) -> Tensor:
        tokens, dictionary = x, self.dictionary.unsqueeze(0)
        for layer in self.layers:
            tokens, dictionary = layer(tokens, dictionary, slots)
        return x + to_tokens(self.conv(to_maps(tokens)))


class Body(nn.Module):
    """Every group on NHWC; they fill their categories' groups alike."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.groups = nn.ModuleList(Group(layer, model.relative_position_index_SA) for layer in model.layers)
        self.category_size = model.layers[0].residual_group.layers[0].attn_aca.category_size

    def forward(self, x: Tensor) -> Tensor:
        slots = fill(x.flatten(1, 2), self.category_size)
        for group in self.groups:
            x = group(x, slots)
        return x


def _model(model: Any) -> Trunk:
    norm = [] if model.patch_embed.norm is None else [model.patch_embed.norm]
    channels = model.conv_first.in_channels
    return Trunk(
        model.conv_first,
        nn.Sequential(*norm, Body(model), model.norm),
        model.conv_after_body,
        tail(model),
        multiple=model.window_size,
        extension=Extension(model.window_size, kind="mirror"),
        scale=model.upscale if model.upsampler else 1,
        channels=channels,
        out_channels=channels,
        halo=2 * model.window_size,
        mean=model.mean if model.is_norm else None,
        value_range=model.img_range if model.is_norm else 1.0,
    )


class ATD(RestorationFamily):
    """ATD: windows, a dictionary of tokens, and attention among tokens that it finds alike."""

    id = "atd"
    title = "ATD, image super-resolution"
    paper = "https://arxiv.org/abs/2401.08209"
    presets = {
        "atd_light_x4": "spandrel:ATD?upscale=4&upsampler=pixelshuffledirect&window_size=16&embed_dim=48"
        "&depths=[6,6,6,6]&num_heads=[4,4,4,4]&num_tokens=64&category_size=128&reducted_dim=8"
        "&convffn_kernel_size=7&mlp_ratio=1",
        "atd_x4": "spandrel:ATD?upscale=4&upsampler=pixelshuffle&window_size=16&embed_dim=210"
        "&depths=[6,6,6,6,6,6]&num_heads=[6,6,6,6,6,6]&num_tokens=128&category_size=256&reducted_dim=20"
        "&convffn_kernel_size=5&mlp_ratio=2",
    }
    models = {f"{_MODULE}.ATD": _model}

    def rewrite(self, module: nn.Module) -> Rewrite:
        rewritten = super().rewrite(module)
        return replace(rewritten, notes=(*rewritten.notes, NOTE))

    def recognises(self, module: nn.Module) -> bool:
        """Models with absolute positions, which exist for one size only, are left to the generic path."""
        return super().recognises(module) and not any(
            getattr(inner, "ape", False) for inner in module.modules()
        )
