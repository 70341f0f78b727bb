"""Bare checkpoints of restoration models: what is recognised, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgetx import _torchvision, sources  # noqa: E402
from edgetx.errors import SourceError  # noqa: E402

_torchvision.install()
spandrel = pytest.importorskip("spandrel")

SWINIR = {
    "img_size": 16, "window_size": 8, "depths": [2], "embed_dim": 16, "num_heads": [2], "mlp_ratio": 2,
    "upscale": 2, "upsampler": "pixelshuffledirect",
}  # fmt: skip


def swinir(**settings: Any) -> dict[str, torch.Tensor]:
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    return SwinIR(**{**SWINIR, **settings}).state_dict()


def save(folder: Path, content: Any, name: str = "model.pth") -> str:
    torch.save(content, folder / name)
    return str(folder / name)


@pytest.mark.parametrize("wrapper", [None, "params_ema", "params", "state_dict", "model", "key"])
def test_a_wrapped_checkpoint_is_recognised(wrapper: str | None, tmp_path: Path) -> None:
    state = swinir()
    reference = sources.load(save(tmp_path, state if wrapper is None else {wrapper: state}))
    assert reference.architecture == "swinir"
    assert reference.weights == "checkpoint"
    assert reference.name == "model"
    assert reference.processor.scale == 2
    own = reference.module.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["module.", "netG.", "_orig_mod."])
def test_prefixes_of_trainers_are_removed(prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in swinir().items()}
    assert sources.load(save(tmp_path, state)).architecture == "swinir"


def test_hyperparameters_come_from_the_weights(tmp_path: Path) -> None:
    state = swinir(upscale=4, upsampler="nearest+conv", in_chans=1, depths=[2, 4], num_heads=[2, 4])
    reference = sources.load(save(tmp_path, {"params_ema": state}))
    assert str(reference.io.inputs[0]) == "image=float32[batch,1,height,width]"
    assert reference.processor.scale == 4
    assert [len(layer.residual_group.blocks) for layer in reference.module.model.layers] == [2, 4]


def test_weights_saved_on_a_gpu_load_on_the_cpu(tmp_path: Path) -> None:
    """The file says `cuda:0`; this machine need not have one."""
    path = tmp_path / "cuda.pth"
    torch.save(swinir(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    # Pickled as a length and the text, before each storage's key and size.
    moved = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert moved != data
    path.write_bytes(moved)
    reference = sources.load(str(path))
    assert reference.architecture == "swinir"
    assert all(tensor.device.type == "cpu" for tensor in reference.module.state_dict().values())


def test_an_unknown_architecture_names_the_closest_and_why_not(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in swinir().items() if "mlp" not in name}
    with pytest.raises(SourceError) as raised:
        sources.load(save(tmp_path, state))
    text = str(raised.value)
    assert "no exporter recognises the weights" in text
    assert "closest is SwinIR" in text
    assert "layers.0.residual_group.blocks.0.mlp.fc1.bias" in text
    assert "--model" in text


def test_weights_of_something_else_have_no_closest(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no exporter recognises the weights") as raised:
        sources.load(save(tmp_path, {"encoder.weight": torch.zeros(3), "decoder.weight": torch.zeros(3)}))
    assert "closest" not in str(raised.value)


def test_an_incomplete_checkpoint_says_so(tmp_path: Path) -> None:
    state = swinir()
    del state["norm.weight"]
    with pytest.raises(SourceError, match="look like SwinIR and do not build one"):
        sources.load(save(tmp_path, state))


def test_a_model_of_picture_and_mask_is_refused(tmp_path: Path) -> None:
    from spandrel.architectures.LaMa import LaMa

    with pytest.raises(SourceError, match="takes a picture and a mask"):
        sources.load(save(tmp_path, LaMa().state_dict()))


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (
            ["spynet.basic_module.0.basic_module.0.conv.weight", "backward_resblocks.main.0.weight"],
            "BasicVSR",
        ),
        (["conv_first.weight", "pcd_align.offset_conv1.l3.weight"], "EDVR"),
    ],
)
def test_a_model_of_videos_is_refused(names: list[str], title: str, tmp_path: Path) -> None:
    path = save(tmp_path, {"params_ema": {name: torch.zeros(3, 3) for name in names}})
    with pytest.raises(SourceError, match=rf"{title}.*, which takes several frames; .* module:function"):
        sources.load(path)


def test_unknown_architecture_names_of_spandrel_are_refused() -> None:
    with pytest.raises(SourceError, match="did you mean SwinIR"):
        sources.load("spandrel:SwinIRR", pretrained=False)
    with pytest.raises(SourceError, match="comes without weights"):
        sources.load("spandrel:SwinIR?upscale=2")
    with pytest.raises(SourceError, match="cannot be built with windows=8"):
        sources.load("spandrel:SwinIR?windows=8", pretrained=False)


def test_resources_name_the_missing_package() -> None:
    with pytest.raises(SourceError, match=r"there is no Python package 'nowhere'"):
        sources.load("resource:nowhere/model.pth")
    with pytest.raises(SourceError, match=r"has no file 'model\.pth'"):
        sources.load("resource:edgetx/model.pth")


def test_a_covered_model_of_the_users_own_is_recognised() -> None:
    from spandrel.architectures.SwinIR import SwinIR

    reference = sources.from_module(SwinIR(**SWINIR).eval())
    assert reference.architecture == "swinir"
    assert reference.io.symbols["height"].min == 5
    assert reference.processor.scale == 2
