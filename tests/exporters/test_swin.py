"""Swin of timm, torchvision and transformers: rewritten copies against the library's own modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgetx import _torchvision, exporters
from edgetx.core import SymbolRange
from edgetx.errors import ExportError

_torchvision.install()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
tv = pytest.importorskip("torchvision.models.swin_transformer")

SMALL = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "num_classes": 7}
TIMM = [name for name in timm.list_models("swin_*") if "cr" not in name]
ANY_SIZE = ("swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384", "swin_s3_tiny_224")


def config(**settings: Any) -> Any:
    return transformers.SwinConfig(**{
        "image_size": 64, "window_size": 3, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [1, 2, 4],
        "num_labels": 7, **settings,
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
    io = exporters.get("swin").describe(model)
    assert io.inputs[0].shape == ("batch", 3, *model.patch_embed.img_size)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_timm_variant_at_any_size(name: str, check: Any, randomized: Any) -> None:
    model = randomized(timm.create_model(name, strict_img_size=False, img_size=64, **SMALL))
    io = check(model, "swin", [(1, 64, 64), (3, 72, 100), (1, 4, 60)], trace=name == ANY_SIZE[0])
    assert str(io.inputs[0]) == "image=float32[batch,3,height,width]"
    assert io.symbols["height"] == SymbolRange(min=4, step=4)
    assert [str(spec) for spec in io.outputs] == ["logits=float32[batch,7]"]


@pytest.mark.parametrize(
    "settings",
    [
        {"always_partition": True, "img_size": 64},
        {"window_size": [(4, 8), (4, 8)], "img_size": (64, 96)},
        {"head_dim": 6, "img_size": 64},
        {"qkv_bias": False, "img_size": 72},
        {"patch_size": 2, "in_chans": 1, "img_size": 40},
        {"global_pool": "", "num_classes": 0, "img_size": 64},
        {"num_classes": 0, "img_size": 64},
    ],
    ids=str,
)
def test_timm_settings(settings: dict[str, Any], check: Any, randomized: Any) -> None:
    settings = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 7, **settings}
    model = randomized(timm.models.SwinTransformer(strict_img_size=False, **settings))
    check(
        model,
        "swin",
        [(2, 64, 64), (1, 100, 36)],
        trace="head_dim" in settings or settings["num_classes"] == 0,
    )


def test_timm_after_set_input_size(check: Any, randomized: Any) -> None:
    model = randomized(timm.create_model("swin_tiny_patch4_window7_224", **SMALL))
    model.set_input_size(img_size=(64, 96), window_size=4)
    io = check(model, "swin", [(2, 64, 96)], trace=False)
    assert io.inputs[0].shape == ("batch", 3, 64, 96)


@pytest.mark.parametrize("getter", [False, True])
def test_timm_features_only(getter: bool, check: Any, randomized: Any) -> None:
    extra = {"feature_cls": "getter"} if getter else {}
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False,
        img_size=64, out_indices=(1, 3),
        **extra, **{key: value for key, value in SMALL.items() if key != "num_classes"},
    )  # fmt: skip
    io = check(randomized(model), "swin", [(1, 64, 64), (2, 76, 132)], trace=not getter)
    assert [spec.name for spec in io.outputs] == ["feature_0", "feature_1"]
    assert {"feature_0_height", "feature_0_width"} <= set(io.outputs[0].shape)


def test_torchvision(check: Any, randomized: Any) -> None:
    model = tv.SwinTransformer([4, 4], 16, [2, 2, 2], [1, 2, 4], [3, 5], num_classes=7)
    io = check(randomized(model), "swin", [(2, 64, 64), (1, 61, 90), (1, 4, 40), (1, 12, 12)])
    assert io.symbols["height"] == SymbolRange(min=4)
    assert [str(spec) for spec in io.outputs] == ["logits=float32[batch,7]"]


def test_transformers_classifier(check: Any, randomized: Any) -> None:
    model = randomized(transformers.SwinForImageClassification(config()))
    # 4·2·(3-1)+1 pixels is the first size whose last stage holds a window.
    io = check(model, "swin", [(2, 64, 64), (1, 33, 50), (2, 47, 33), (1, 48, 130)])
    assert str(io.inputs[0]) == "pixel_values=float32[batch,3,height,width]"
    assert io.symbols["width"] == SymbolRange(min=33)
    with pytest.raises(Exception, match=r"size|shape"), torch.no_grad():
        transformers.SwinForImageClassification(config())(torch.zeros(1, 3, 32, 64))


def test_transformers_model_that_already_ran(check: Any, randomized: Any) -> None:
    """The library's layers keep the window and shift of the smallest map they met; the export does not."""
    model = randomized(transformers.SwinModel(config()))
    io = check(model, "swin", [(1, 72, 72)], trace=False)
    assert [spec.name for spec in io.outputs] == ["last_hidden_state", "pooler_output"]
    x = torch.randn(1, 3, 72, 72)
    with torch.no_grad():
        expected = model(x).pooler_output
        model(torch.randn(1, 3, 40, 40))
        assert not torch.allclose(model(x).pooler_output, expected, atol=1e-4)
        again = exporters.find(model).rewrite(model).module(x).pooler_output
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


def test_transformers_model_without_pooling_and_biases(check: Any, randomized: Any) -> None:
    model = transformers.SwinModel(config(qkv_bias=False), add_pooling_layer=False)
    check(randomized(model), "swin", [(1, 64, 80)], trace=False)


def test_transformers_backbone(check: Any, randomized: Any) -> None:
    model = transformers.SwinBackbone(config(out_features=["stem", "stage1", "stage3"]))
    io = check(randomized(model), "swin", [(2, 64, 64), (1, 23, 50), (1, 9, 9)])
    assert [spec.name for spec in io.outputs] == ["feature_maps_0", "feature_maps_1", "feature_maps_2"]
    assert io.symbols["height"] == SymbolRange(min=1)


def test_transformers_extra_outputs_are_refused() -> None:
    model = transformers.SwinModel(config(output_hidden_states=True)).eval()
    with pytest.raises(ExportError, match="output_hidden_states"):
        exporters.find(model).rewrite(model)
    rewritten = exporters.get("swin").rewrite(transformers.SwinModel(config()).eval()).module
    with pytest.raises(ExportError, match="bool_masked_pos"):
        rewritten(torch.zeros(1, 3, 64, 64), bool_masked_pos=torch.zeros(1, 256))


def test_weights_are_shared_and_hooks_stay() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, **SMALL).eval()
    calls: list[str] = []
    model.layers[0].blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    rewrite = exporters.find(model).rewrite(model)
    block = rewrite.module.get_submodule("layers.0.blocks.0")
    assert block.attn.qkv.weight is model.layers[0].blocks[0].attn.qkv.weight
    assert rewrite.notes == ("forward hooks of layers.0.blocks.0 do not run in the exported model",)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert calls == ["block"]


def test_a_training_model_stays_in_training() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, **SMALL).train()
    rewritten = exporters.find(model).rewrite(model).module
    assert model.training and all(inner.training for inner in model.modules())
    assert not any(inner.training for inner in rewritten.modules())


def test_a_module_around_a_swin_needs_an_example() -> None:
    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, **SMALL)

        def forward(self, picture: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": self.body(picture).sigmoid()}

    model = Detector().eval()
    architecture = exporters.find(model)
    assert architecture.id == "swin"
    with pytest.raises(ExportError, match="example"):
        architecture.describe(model)
    io = architecture.describe(model, torch.zeros(1, 3, 64, 64))
    assert str(io.inputs[0]) == "picture=float32[batch,3,64,64]"
    assert str(io.outputs[0]) == "score=float32[batch,7]"
    assert len(architecture.rewrite(model).replaced) == 8


def build(source: str, settings: dict[str, Any]) -> torch.nn.Module:
    library, name = source.split(":")
    if library == "timm":
        model: torch.nn.Module = timm.create_model(name, **settings)
        return model
    factory: Callable[..., torch.nn.Module] = getattr(pytest.importorskip(library), name)
    return factory(**settings)


def microsoft(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names as the authors' code had them: downsampling at the end of a stage, a bare head."""
    names = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        names[".".join(parts).replace("head.fc.", "head.")] = tensor
    return names


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("swin_tiny_patch4_window7_224", window_size=4, img_size=128, **SMALL),
        lambda: timm.create_model("swin_s3_tiny_224", **SMALL),
        lambda: tv.SwinTransformer([4, 4], 16, [2, 2, 2], [1, 2, 4], [3, 3], num_classes=7),
        lambda: transformers.SwinForImageClassification(config()),
        lambda: transformers.SwinModel(config(qkv_bias=False)),
    ],
    ids=["timm", "timm_s3", "torchvision", "transformers", "transformers_model"],
)
def test_a_bare_checkpoint_finds_its_model(make: Callable[[], torch.nn.Module]) -> None:
    state = make().state_dict()
    found = exporters.get("swin").source_from_state_dict(state)
    assert found is not None
    build(*found).load_state_dict(state, strict=True)
    assert exporters.get("swinv2").source_from_state_dict(state) is None


def test_an_original_checkpoint_finds_its_model() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", **SMALL)
    state = microsoft(model.state_dict())
    found = exporters.get("swin").source_from_state_dict(state)
    assert found is not None
    assert found[0] == "timm:swin_tiny_patch4_window7_224"
    rebuilt = build(*found)
    convert = timm.models.swin_transformer.checkpoint_filter_fn
    rebuilt.load_state_dict(convert(state, rebuilt), strict=True)


def test_another_models_checkpoint_is_not_claimed() -> None:
    state = {"weight": torch.zeros(1), "layers.0.weight": torch.zeros(2)}
    assert exporters.get("swin").source_from_state_dict(state) is None
    assert exporters.get("swinv2").source_from_state_dict(state) is None


def test_presets_exist_in_timm() -> None:
    for architecture in exporters.architectures():
        for source in architecture.presets.values():
            if source.startswith("timm:"):
                assert timm.is_model(source.removeprefix("timm:")), source


def test_transformers_absolute_positions(check: Any, randomized: Any) -> None:
    """5.x can run them at the size that they were made for; 4.57 cannot at any size."""
    model = randomized(transformers.SwinModel(config(use_absolute_embeddings=True)))
    if model.embeddings.position_embeddings.shape[1] == 256:
        io = check(model, "swin", [(2, 64, 64)], trace=False)
        assert io.inputs[0].shape == ("batch", 3, 64, 64)
    else:
        with pytest.raises(ExportError, match="use_absolute_embeddings"):
            exporters.find(model).rewrite(model)
