"""SwinV2 of timm (swinv2_cr_* too), torchvision and transformers: rewritten against the library's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgetx import _torchvision, exporters
from edgetx.core import SymbolRange
from edgetx.errors import SourceError

_torchvision.install()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
tv = pytest.importorskip("torchvision.models.swin_transformer")

SMALL = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "num_classes": 7}
TIMM = timm.list_models("swinv2_*")
# Of each family the first is also traced: the others differ from it in numbers only.
TRACED = ("swinv2_tiny_window8_256", "swinv2_cr_small_ns_224")
ANY_SIZE = (*TRACED, "swinv2_base_window12to24_192to384")


def config(**settings: Any) -> Any:
    return transformers.Swinv2Config(**{
        "image_size": 48, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2],
        "num_labels": 7, "pretrained_window_sizes": [6, 3], **settings,
    })  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timm_variant_at_its_own_size(name: str, same: Any, randomized: Any) -> None:
    model = randomized(timm.create_model(name, **SMALL))
    rewrite = exporters.find(model).rewrite(model)
    assert len(rewrite.replaced) == 8
    x = torch.randn(1, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same(rewrite.module(x), model(x), name)


def test_timm_strict_size_is_fixed() -> None:
    model = timm.create_model(TIMM[0], **SMALL).eval()
    io = exporters.get("swinv2").describe(model)
    assert io.inputs[0].shape == ("batch", 3, *model.patch_embed.img_size)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_timm_variant_at_any_size(name: str, check: Any, randomized: Any) -> None:
    model = randomized(timm.create_model(name, strict_img_size=False, img_size=64, **SMALL))
    io = check(model, "swinv2", [(1, 64, 64), (3, 72, 100), (1, 4, 60)], trace=name in TRACED)
    assert str(io.inputs[0]) == "image=float32[batch,3,height,width]"
    assert io.symbols["height"] == SymbolRange(min=4, step=1 if "cr" in name else 4)
    assert [str(spec) for spec in io.outputs] == ["logits=float32[batch,7]"]


@pytest.mark.parametrize(
    "settings",
    [{"always_partition": True}, {"qkv_bias": False}, {"global_pool": "", "num_classes": 0}],
    ids=str,
)
def test_timm_settings(settings: dict[str, Any], check: Any, randomized: Any) -> None:
    settings = {**SMALL, "window_size": 7, "img_size": 64, **settings}
    model = randomized(timm.models.SwinTransformerV2(strict_img_size=False, **settings))
    check(model, "swinv2", [(2, 64, 64), (1, 100, 36)], trace=False)


def test_timm_separate_bias(check: Any, randomized: Any) -> None:
    model = randomized(timm.models.SwinTransformerV2(img_size=32, window_size=4, **SMALL))
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True
    check(model, "swinv2", [(2, 32, 32)], trace=False)


def test_timm_cr_cuts_partial_patches_off(check: Any, randomized: Any) -> None:
    settings = {**SMALL, "extra_norm_period": 2, "img_size": 64}
    model = timm.create_model("swinv2_cr_tiny_224", strict_img_size=False, **settings)
    check(randomized(model), "swinv2", [(1, 67, 41)], trace=False)


@pytest.mark.parametrize("name", TRACED)
def test_timm_features_only(name: str, check: Any, randomized: Any) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "num_classes"}
    model = timm.create_model(name, features_only=True, strict_img_size=False, img_size=64, **settings)
    io = check(randomized(model), "swinv2", [(1, 64, 64), (2, 76, 132)], trace=False)
    assert [spec.name for spec in io.outputs] == [f"feature_{index}" for index in range(4)]


def test_torchvision(check: Any, randomized: Any) -> None:
    model = tv.SwinTransformer(
        [4, 4], 16, [2, 2], [1, 2], [4, 4], num_classes=7,
        block=tv.SwinTransformerBlockV2, downsample_layer=tv.PatchMergingV2,
    )  # fmt: skip
    io = check(randomized(model), "swinv2", [(2, 64, 64), (1, 61, 90), (1, 4, 40), (1, 16, 16)])
    assert io.symbols["height"] == SymbolRange(min=4)
    assert not exporters.get("swin").recognises(model)


def test_transformers_classifier(check: Any, randomized: Any) -> None:
    model = randomized(transformers.Swinv2ForImageClassification(config()))
    io = check(model, "swinv2", [(2, 48, 48), (1, 33, 50), (1, 3, 20)])
    assert str(io.inputs[0]) == "pixel_values=float32[batch,3,height,width]"
    assert io.symbols["width"] == SymbolRange(min=1)


def test_transformers_window_that_shrank_when_built(check: Any, randomized: Any) -> None:
    model = randomized(transformers.Swinv2Model(config(window_size=8, qkv_bias=False)))
    io = check(model, "swinv2", [(1, 48, 48), (2, 40, 90)], trace=False)
    assert [spec.name for spec in io.outputs] == ["last_hidden_state", "pooler_output"]


def test_transformers_backbone(check: Any, randomized: Any) -> None:
    model = transformers.Swinv2Backbone(config(out_features=["stem", "stage2"]))
    io = check(randomized(model), "swinv2", [(2, 64, 64), (1, 23, 50)])
    assert [spec.name for spec in io.outputs] == ["feature_maps_0", "feature_maps_1"]


def test_transformers_mask_value_is_measured() -> None:
    """4.57 adds the mask twice; whatever a version does, the attribute is what it comes to."""
    model = transformers.Swinv2Model(config()).eval()
    rewritten = exporters.get("swinv2").rewrite(model).module
    attributes = rewritten.encoder.layers[0].blocks[1].attn.attributes
    attention = model.encoder.layers[0].blocks[1].attention.self
    x = torch.zeros(2, 16, 16)
    mask = torch.zeros(2, 16, 16)
    mask[:, :, 3] = -1.0
    with torch.no_grad():
        plain = attention(x, torch.zeros_like(mask), output_attentions=True)[1]
        masked = attention(x, mask, output_attentions=True)[1]
    odds = (plain[..., 3] / plain[..., 4] / (masked[..., 3] / masked[..., 4])).log()
    torch.testing.assert_close(odds, torch.full_like(odds, attributes.mask_value / -100.0), atol=1e-4, rtol=0)


def test_a_timm_checkpoint_does_not_tell_its_window() -> None:
    for name in TRACED:
        state = timm.create_model(name, **SMALL).state_dict()
        with pytest.raises(SourceError, match="--model"):
            exporters.get("swinv2").source_from_state_dict(state)
        assert exporters.get("swin").source_from_state_dict(state) is None


def test_an_original_checkpoint_finds_its_model() -> None:
    model = timm.create_model("swinv2_tiny_window16_256", **SMALL)
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = tensor
    for stage, layer in enumerate(model.layers):
        for index, block in enumerate(layer.blocks):
            state[f"layers.{stage}.blocks.{index}.attn.relative_coords_table"] = (
                block.attn.relative_coords_table
            )
    found = exporters.get("swinv2").source_from_state_dict(state)
    assert found is not None
    source, settings = found
    assert source == "timm:swinv2_base_window16_256"
    rebuilt = timm.create_model(source.removeprefix("timm:"), **settings)
    convert = timm.models.swin_transformer_v2.checkpoint_filter_fn
    rebuilt.load_state_dict(convert(state, rebuilt), strict=True)


def test_a_torchvision_checkpoint_finds_its_model() -> None:
    model = tv.SwinTransformer(
        [4, 4], 16, [2, 2], [1, 2], [4, 4], num_classes=7,
        block=tv.SwinTransformerBlockV2, downsample_layer=tv.PatchMergingV2,
    )  # fmt: skip
    found = exporters.get("swinv2").source_from_state_dict(model.state_dict())
    assert found is not None
    assert found[0] == "torchvision.models.swin_transformer:SwinTransformer"
    tv.SwinTransformer(**found[1]).load_state_dict(model.state_dict(), strict=True)
    assert exporters.get("swin").source_from_state_dict(model.state_dict()) is None
