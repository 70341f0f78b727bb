"""SOURCE strings and modules in memory to References, and one error line for everything that can be wrong."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetx import samples, sources  # noqa: E402
from edgetx._torchvision import install  # noqa: E402
from edgetx.core import Reference, TensorSpec  # noqa: E402
from edgetx.errors import EdgetxError, InputError, SourceError, UnavailableError  # noqa: E402
from edgetx.processors import ImageClassification, ImageFeatures  # noqa: E402
from edgetx.sources import _checkpoint, _hub  # noqa: E402
from edgetx.sources._grammar import Parsed, parse  # noqa: E402

install()
timm = pytest.importorskip("timm")

TINY = "timm:swin_tiny_patch4_window7_224?img_size=56&embed_dim=16&depths=(1,1)&num_heads=(2,4)"
TINY_OPTIONS: dict[str, Any] = {"img_size": 56, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)}


def tiny(**options: Any) -> torch.nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", **{**TINY_OPTIONS, **options})


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the network nor this machine's caches decide what the tests see."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(_hub, "reachable", lambda: False)
    torch.set_num_threads(1)
    yield


def error_of(source: str, **arguments: Any) -> str:
    with pytest.raises(SourceError) as caught:
        sources.load(source, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def run(reference: Reference) -> list[dict[str, Any]]:
    results = []
    for sample in reference.samples:
        reference.io.check(sample)
        with torch.inference_mode():
            output = reference.module(*(torch.from_numpy(sample[spec.name]) for spec in reference.io.inputs))
        results.append(output)
    return results


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("timm:swin_t", Parsed("timm", "swin_t")),
            (
                "timm:a.in1k?features_only=true&img_size=(64,96)&norm=layer",
                Parsed("timm", "a.in1k", {"features_only": True, "img_size": (64, 96), "norm": "layer"}),
            ),
            ("hf:org/name@main", Parsed("hf", "org/name@main")),
            ("torchvision:swin_t", Parsed("torchvision", "swin_t")),
            ("my.module:build", Parsed("function", "my.module:build")),
            ("swin_tiny", Parsed("name", "swin_tiny")),
        ],
    )
    def test_forms(self, text: str, expected: Parsed) -> None:
        assert parse(text) == expected

    def test_an_existing_file_is_a_checkpoint_and_may_name_its_model(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        path.touch()
        assert parse(str(path)) == Parsed("file", str(path))
        nested = "timm:resnet18?num_classes=3"
        assert parse(f"{path}?model={nested}") == Parsed("file", str(path), {"model": nested})

    @pytest.mark.parametrize(
        "text", ["", "  ", "a b", "timm:", "timm:x?flag", "timm:x?a=1&a=2", "?x=1", "a:b:c"]
    )
    def test_malformed(self, text: str) -> None:
        message = error_of(text)
        assert "SOURCE" in message

    def test_option_values_are_never_evaluated(self) -> None:
        assert parse("timm:x?a=__import__('os').getcwd()").options == {"a": "__import__('os').getcwd()"}


class TestLibraries:
    def test_random_weights_are_seeded_and_said(self) -> None:
        torch.manual_seed(1234)
        before = torch.get_rng_state()
        first, second = (sources.load(TINY, pretrained=False) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert first.weights == "random"
        assert any("random" in note for note in first.notes)
        for name, value in first.module.state_dict().items():
            assert torch.equal(value, second.module.state_dict()[name])
        assert not first.module.training

    def test_timm_samples_are_photographs_of_several_sizes(self) -> None:
        reference = sources.load(TINY, pretrained=False)
        assert reference.architecture == "swin"
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.size == (56, 56)
        shapes = [next(iter(sample.values())).shape for sample in reference.samples]
        assert shapes[0] == (1, 3, 56, 56)
        assert shapes[1] == (2, 3, 56, 56)
        assert shapes[2][0] == 1
        assert shapes[2][2:] != (56, 56)
        assert len(np.unique(next(iter(reference.samples[0].values())))) > 100
        assert [tuple(output.shape) for output in run(reference)] == [(1, 1000), (2, 1000), (1, 1000)]

    def test_timm_preprocessing_equals_timms_transform(self) -> None:
        from PIL import Image

        reference = sources.load(TINY, pretrained=False)
        config = {**timm.data.resolve_model_data_config(reference.module), "input_size": (3, 56, 56)}
        transform = timm.data.create_transform(**config, is_training=False)
        for sample, path in zip(reference.samples[:1], samples.photographs(), strict=False):
            expected = transform(Image.open(path).convert("RGB"))[None].numpy()
            np.testing.assert_allclose(next(iter(sample.values())), expected, atol=2e-6)

    def test_timm_features(self) -> None:
        reference = sources.load(TINY + "&features_only=true&out_indices=(0,1)", pretrained=False)
        assert isinstance(reference.processor, ImageFeatures)
        assert len(reference.io.outputs) == 2

    def test_options_decide_over_the_dynamic_size(self) -> None:
        reference = sources.load(TINY + "&strict_img_size=true", pretrained=False)
        assert reference.io.inputs[0].shape[2:] == (56, 56)
        assert not any("strict_img_size" in note for note in reference.notes)
        assert len(reference.samples) >= 3

    def test_a_model_without_exporter_is_generic(self) -> None:
        reference = sources.load("timm:resnet10t?num_classes=5", pretrained=False)
        assert reference.architecture == "generic"
        assert run(reference)[1].shape == (2, 5)

    def test_torchvision(self) -> None:
        reference = sources.load("torchvision:mobilenet_v3_small?num_classes=4", pretrained=False)
        assert reference.weights == "random"
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.resize_size == 256
        assert run(reference)[0].shape == (1, 4)

    def test_torchvision_preprocessing_equals_its_transform(self) -> None:
        from PIL import Image
        from torchvision.models import get_model_weights

        reference = sources.load("torchvision:mobilenet_v3_small?num_classes=4", pretrained=False)
        transform = get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
        expected = transform(Image.open(samples.photographs()[0]).convert("RGB"))[None].numpy()
        np.testing.assert_allclose(next(iter(reference.samples[0].values())), expected, atol=2e-6)

    def test_presets(self) -> None:
        reference = sources.load(
            "swin_tiny?img_size=56&embed_dim=16&depths=(1,1)&num_heads=(2,4)", pretrained=False
        )
        assert reference.architecture == "swin"
        assert reference.name == "swin_tiny_patch4_window7_224"

    def test_a_folder_may_have_the_name_of_a_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "flatformer_tiny").mkdir()
        assert sources.load("flatformer_tiny", pretrained=False).architecture == "flatformer"
        (tmp_path / "flatformer_tiny" / "config.json").write_text("{}")
        assert "flatformer_tiny" in error_of("flatformer_tiny")

    def test_users_images(self) -> None:
        paths = samples.photographs()
        reference = sources.load(TINY, pretrained=False, images=[paths[2]])
        other = sources.load(TINY, pretrained=False)
        name = reference.io.inputs[0].name
        assert not np.array_equal(reference.samples[0][name], other.samples[0][name])
        with pytest.raises(InputError, match=r"gone\.png"):
            sources.load(TINY, pretrained=False, images=["gone.png"])

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("timm:swin_tin_patch4_window7_224", "did you mean timm:swin_tiny_patch4_window7_224"),
            ("timm:zzzzzz", "timm has no model 'zzzzzz'"),
            ("timm:swin_tiny_patch4_window7_224.nope", "knows no weights 'nope'"),
            ("timm:other:thing", "unknown prefix"),
            ("torchvision:swin_tt", "did you mean torchvision:swin_t"),
            ("torchvision:swin_t?weights=NOPE", "IMAGENET1K_V1"),
            ("swin_tini", "did you mean swin_tiny"),
            ("resnet18", "did you mean timm:resnet18"),
            ("hf:a/b/c", "no model id"),
            ("org/name", "write hf:org/name"),
        ],
    )
    def test_unknown_names(self, source: str, expected: str) -> None:
        assert expected in error_of(source)

    def test_refused_options(self) -> None:
        assert "foo=1" in error_of("timm:resnet18?foo=1", pretrained=False)
        assert "foo=1" in error_of("torchvision:resnet18?foo=1", pretrained=False)

    @pytest.mark.parametrize(
        "source", ["timm:swin_tiny_patch4_window7_224", "hf:org/name", "timm:hf-hub:org/name", "swin_tiny"]
    )
    def test_unreachable_weights_name_the_options(self, source: str) -> None:
        message = error_of(source)
        for option in ("--no-pretrained", "--model", "HF_HUB_CACHE"):
            assert option in message

    def test_a_local_timm_folder(self, tmp_path: Path) -> None:
        from timm.models import save_for_hf

        trained = timm.create_model("resnet10t", num_classes=3)
        save_for_hf(trained, tmp_path / "mine", safe_serialization=True)
        reference = sources.load(str(tmp_path / "mine"))
        assert reference.name == "mine"
        assert torch.equal(reference.module.state_dict()["fc.weight"], trained.state_dict()["fc.weight"])

    def test_unreachable_torchvision_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_args: Any, **_kwargs: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
        message = error_of("torchvision:mobilenet_v3_small")
        assert "no route to host" in message
        assert "--no-pretrained" in message

    def test_a_model_without_published_weights(self) -> None:
        assert "no trained weights" in error_of("timm:swinv2_cr_tiny_224")

    def test_weights_come_from_the_local_hub_cache(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        trained = timm.create_model("resnet10t")
        repository = timm.get_pretrained_cfg("resnet10t").hf_hub_id
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        snapshot = root / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("a" * 40)
        save_file(trained.state_dict(), snapshot / "model.safetensors")
        reference = sources.load("timm:resnet10t")
        assert reference.weights == "pretrained"
        assert torch.equal(reference.module.state_dict()["fc.weight"], trained.state_dict()["fc.weight"])
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.labels is not None
        assert reference.processor.labels[0].startswith("tench")


class TestCheckpoints:
    @pytest.mark.parametrize("wrapped", ["plain", "nested", "params_ema", "ddp", "compiled", "safetensors"])
    def test_every_wrapping_gives_the_weights(self, tmp_path: Path, wrapped: str) -> None:
        trained = tiny(num_classes=7)
        state = trained.state_dict()
        path = tmp_path / "mine.pth"
        if wrapped == "safetensors":
            from safetensors.torch import save_file

            path = tmp_path / "mine.safetensors"
            save_file(state, path)
        else:
            stored: Any = {
                "plain": state,
                "nested": {
                    "state_dict": state,
                    "epoch": np.float64(3),
                    "args": argparse.Namespace(lr=0.1),
                },
                "params_ema": {"params_ema": state, "params": {"x": torch.zeros(1)}},
                "ddp": {"model": {f"module.{name}": value for name, value in state.items()}},
                "compiled": {f"_orig_mod.{name}": value for name, value in state.items()},
            }[wrapped]
            torch.save(stored, path)
        reference = sources.load(str(path), model=TINY)
        assert reference.weights == "checkpoint"
        assert reference.name == "mine"
        assert reference.source == f"{path}?model={TINY}"
        assert any("7 classes" in note for note in reference.notes)
        photograph = torch.from_numpy(next(iter(reference.samples[0].values())))
        with torch.inference_mode():
            assert torch.equal(reference.module(photograph), trained.eval()(photograph))
        again = sources.load(reference.source)
        assert torch.equal(
            again.module.state_dict()["head.fc.weight"], reference.module.state_dict()["head.fc.weight"]
        )

    def test_a_bare_checkpoint_is_recognised(self, tmp_path: Path) -> None:
        trained = tiny(num_classes=7)
        path = tmp_path / "bare.pth"
        torch.save(trained.state_dict(), path)
        reference = sources.load(str(path))
        assert reference.architecture == "swin"
        assert any("recognised as timm:swin" in note for note in reference.notes)
        photograph = torch.from_numpy(next(iter(reference.samples[0].values())))
        with torch.inference_mode():
            assert torch.equal(reference.module(photograph), trained.eval()(photograph))

    def test_a_lightning_prefix_is_recognised(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        torch.save(
            {"state_dict": {f"model.{name}": value for name, value in tiny().state_dict().items()}}, path
        )
        assert sources.load(str(path)).architecture == "swin"

    def test_features_of_a_checkpoint(self, tmp_path: Path) -> None:
        trained = tiny(num_classes=7)
        path = tmp_path / "mine.pth"
        torch.save(trained.state_dict(), path)
        reference = sources.load(str(path), model=TINY + "&features_only=true")
        weights = dict(reference.module.named_parameters())
        assert torch.equal(weights["patch_embed.proj.weight"], trained.patch_embed.proj.weight)
        assert isinstance(reference.processor, ImageFeatures)

    def test_a_checkpoint_of_a_users_function(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "source_tests_ckpt_net.py").write_text(
            "import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n"
        )
        torch.save({"weight": torch.full((2, 3), 2.0), "bias": torch.ones(2)}, tmp_path / "w.pt")
        reference = sources.load(
            "w.pt", model="source_tests_ckpt_net:build", inputs=[TensorSpec.parse("input=float32[batch,3]")]
        )
        assert reference.weights == "checkpoint"
        with torch.inference_mode():
            assert float(reference.module(torch.ones(1, 3))[0, 0]) == 7.0

    def test_missing_file(self) -> None:
        assert "gone.pth does not exist" in error_of("gone.pth")

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_truncated(self, tmp_path: Path, suffix: str) -> None:
        from safetensors.torch import save_file

        path = tmp_path / f"half.{suffix}"
        tensors = {"a": torch.zeros(2000)}
        save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[:3000])
        message = error_of(str(path))
        assert "truncated" in message
        assert "half" in message

    def test_empty_and_garbage(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        path.write_bytes(b"")
        assert "empty" in error_of(str(path))
        path.write_bytes(b"<html>404 not found</html>" * 10)
        assert "no PyTorch checkpoint" in error_of(str(path))

    def test_git_lfs_pointer(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        assert "git lfs pull" in error_of(str(path))

    def test_pickled_code_never_runs(self, tmp_path: Path) -> None:
        trap = tmp_path / "it-ran"

        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (trap,))

        raw, zipped = tmp_path / "raw.pth", tmp_path / "zipped.pth"
        raw.write_bytes(pickle.dumps({"weight": Trap()}))
        torch.save({"weight": Trap()}, zipped)
        torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
        for path in (raw, zipped, tmp_path / "whole.pth"):
            message = error_of(str(path))
            assert "pickled code or objects" in message
            assert "safetensors" in message
        assert not trap.exists()

    def test_torchscript(self, tmp_path: Path) -> None:
        path = tmp_path / "scripted.pt"
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), str(path))
        assert "TorchScript" in error_of(str(path))

    def test_no_weights_in_it(self, tmp_path: Path) -> None:
        path = tmp_path / "log.pth"
        torch.save({"epoch": 3, "loss": 0.1}, path)
        assert "holds no weights but the keys epoch, loss" in error_of(str(path))
        torch.save([1, 2], path)
        assert "holds no weights but a list" in error_of(str(path))

    def test_unknown_architecture(self, tmp_path: Path) -> None:
        path = tmp_path / "mystery.pth"
        torch.save({"body.weight": torch.zeros(3)}, path)
        message = error_of(str(path))
        assert "body.weight" in message
        assert "--model" in message
        assert "module:function" in message

    def test_weights_that_do_not_fit_name_the_first_mismatches(self, tmp_path: Path) -> None:
        state = tiny().state_dict()
        state["patch_embed.norm.weight"] = torch.zeros(17)
        for name in [name for name in state if name.startswith("layers.1.blocks")]:
            del state[name]
        state["extra.weight"] = torch.zeros(1)
        path = tmp_path / "misfit.pth"
        torch.save(state, path)
        message = error_of(str(path), model=TINY)
        assert re.search(r"\d+ missing: layers\.1\.blocks.*and \d+ more", message)
        assert "1 unexpected: extra.weight" in message
        assert "patch_embed.norm.weight is 17 in the checkpoint and 16 in the model" in message
        assert message.count("layers.1.blocks") == _checkpoint.SHOWN

    def test_another_models_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "resnet.pth"
        torch.save(timm.create_model("resnet10t").state_dict(), path)
        assert "do not fit" in error_of(str(path), model=TINY)

    def test_contradictions(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pth"
        torch.save({"a": torch.zeros(1)}, path)
        assert "--no-pretrained" in error_of(str(path), pretrained=False)
        assert "is itself a checkpoint" in error_of(str(path), model=str(path))
        assert "is no checkpoint" in error_of("timm:resnet18", model="timm:resnet18")


class TestTransformers:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        transformers = pytest.importorskip("transformers")
        config = transformers.SwinConfig(
            image_size=56,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[2, 4],
            id2label={0: "cat", 1: "dog", 2: "cup"},
        )
        path = tmp_path / "tiny-swin"
        transformers.SwinForImageClassification(config).save_pretrained(path)
        transformers.ViTImageProcessor(
            size={"height": 56, "width": 56}, resample=3, image_mean=[0.4] * 3, image_std=[0.2] * 3
        ).save_pretrained(path)
        return path

    def test_folder(self, folder: Path) -> None:
        from PIL import Image
        from transformers import AutoImageProcessor

        reference = sources.load(str(folder))
        assert reference.architecture == "swin"
        assert reference.weights == "checkpoint"
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.labels == ("cat", "dog", "cup")
        image = Image.open(samples.photographs()[0]).convert("RGB")
        expected = AutoImageProcessor.from_pretrained(folder, use_fast=False)(image, return_tensors="np")
        np.testing.assert_allclose(
            reference.samples[0][reference.io.inputs[0].name], expected["pixel_values"], atol=2e-6
        )

    def test_a_hub_model_comes_from_the_local_cache(self, folder: Path, tmp_path: Path) -> None:
        root = tmp_path / "hub" / "models--org--tiny"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("b" * 40)
        shutil.copytree(folder, root / "snapshots" / ("b" * 40))
        reference = sources.load("hf:org/tiny")
        assert reference.weights == "pretrained"
        assert reference.name == "tiny"
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.labels == ("cat", "dog", "cup")

    def test_random_weights_of_a_folder(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert "no weights" in error_of(str(folder))
        assert sources.load(str(folder), pretrained=False).weights == "random"

    def test_backbone(self, folder: Path) -> None:
        reference = sources.load(f"{folder}?architecture=SwinBackbone&out_indices=[1,2]")
        assert isinstance(reference.processor, ImageFeatures)
        assert len(reference.io.outputs) == 2
        assert any("classifier" in note for note in reference.notes)
        assert "no setting 'foo'" in error_of(f"{folder}?foo=1")

    def test_no_processor_file(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").unlink()
        reference = sources.load(str(folder))
        assert reference.processor is not None
        assert any("preprocessor_config.json" in note for note in reference.notes)

    def test_damaged_folders(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "no config.json" in error_of(str(tmp_path / "empty"))
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "git lfs pull" in error_of(str(folder))
        (folder / "config.json").write_text("{")
        assert "not valid JSON" in error_of(str(folder))

    def test_remote_code_never_runs(self, folder: Path, tmp_path: Path) -> None:
        trap = tmp_path / "it-ran"
        (folder / "modeling.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
        for entry in ({"model_type": "mine"}, {"model_type": "swin", "architectures": ["Mine"]}):
            text = {**entry, "auto_map": {"AutoConfig": "modeling.C", "AutoModel": "modeling.M"}}
            (folder / "config.json").write_text(json.dumps(text))
            assert "never run" in error_of(str(folder))
        assert not trap.exists()

    def test_weights_that_do_not_fit(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["depths"] = [1, 2]
        (folder / "config.json").write_text(json.dumps(config))
        message = error_of(str(folder))
        assert "missing: swin.encoder.layers.1.blocks.1" in message


class TestFunctions:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend("/nonexistent")
        (tmp_path / "source_tests_net.py").write_text(
            "import torch\n"
            "NUMBER = 3\n"
            "def build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())\n"
            "def wrong():\n    return 3\n"
            "def broken():\n    raise ValueError('no\\nluck')\n"
        )
        (tmp_path / "source_tests_bad.py").write_text("import a_package_that_is_not_there\n")

    def test_function(self) -> None:
        reference = sources.load(
            "source_tests_net:build", inputs=[TensorSpec.parse("input=float32[batch,length,4]")]
        )
        assert reference.weights == "in-memory"
        assert reference.architecture == "generic"
        assert reference.io.inputs[0].shape == ("batch", "length", 4)
        assert [sample["input"].shape for sample in reference.samples] == [
            (1, 128, 4),
            (2, 128, 4),
            (2, 160, 4),
        ]
        assert any("synthetic" in note for note in reference.notes)
        assert len(run(reference)) == 3

    def test_inputs_are_needed(self) -> None:
        with pytest.raises(EdgetxError, match="--input"):
            sources.load("source_tests_net:build")

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("source_tests_net:gone", "has no 'gone'"),
            ("source_tests_net:NUMBER", "is a int"),
            ("source_tests_net:wrong", "returned a int"),
            ("source_tests_net:broken", "ValueError: no luck"),
            ("source_tests_gone:build", "no Python module"),
            ("source_tests_bad:build", "a_package_that_is_not_there"),
        ],
    )
    def test_errors(self, source: str, expected: str) -> None:
        assert expected in error_of(source)


class TestFromModule:
    def test_a_timm_model_needs_no_example_and_stays_as_it_was(self) -> None:
        model = tiny(num_classes=3, strict_img_size=False, drop_rate=0.5).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        reference = sources.from_module(model)
        assert model.training
        assert all(module.training for module in model.modules())
        assert not reference.module.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert reference.weights == "in-memory"
        assert isinstance(reference.processor, ImageClassification)
        assert reference.processor.labels is None
        assert reference.samples[0][reference.io.inputs[0].name].shape == (1, 3, 56, 56)
        shared = {id(parameter) for parameter in model.parameters()}
        assert {id(parameter) for parameter in reference.module.parameters()} == shared

    def test_an_example_comes_first_and_photographs_follow(self) -> None:
        model = tiny(strict_img_size=False)
        image = torch.zeros(1, 3, 64, 96)
        reference = sources.from_module(model, {"x": image})
        shapes = [sample[reference.io.inputs[0].name].shape for sample in reference.samples]
        assert shapes[:3] == [(1, 3, 64, 96), (1, 3, 56, 56), (2, 3, 56, 56)]
        with pytest.raises(SourceError, match="2 example inputs"):
            sources.from_module(model, (image, image))
        with pytest.raises(InputError, match="float32"):
            sources.from_module(model, image.long())

    @pytest.mark.parametrize("as_numpy", [False, True])
    @pytest.mark.parametrize("form", ["tensor", "tuple", "mapping"])
    def test_examples(self, form: str, as_numpy: bool) -> None:
        array = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
        value: Any = array if as_numpy else torch.from_numpy(array)
        example = {"tensor": value, "tuple": (value,), "mapping": {"input": value}}[form]
        reference = sources.from_module(torch.nn.Linear(5, 2), example)
        assert reference.io.inputs[0].name == "input"
        np.testing.assert_array_equal(reference.samples[0]["input"], array)
        assert len(reference.samples) == 3
        assert any("all but the first" in note for note in reference.notes)

    def test_two_inputs_in_any_order(self) -> None:
        class Two(torch.nn.Module):
            def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
                return left - right

        one, two = torch.ones(2, 3), torch.full((2, 3), 2.0)
        reference = sources.from_module(Two(), {"right": two, "left": one})
        assert [spec.name for spec in reference.io.inputs] == ["left", "right"]
        assert float(run(reference)[0][0, 0]) == -1.0
        with pytest.raises(SourceError, match="no argument 'middle'"):
            sources.from_module(Two(), {"left": one, "middle": two})
        with pytest.raises(SourceError, match="skip 'left'"):
            sources.from_module(Two(), {"right": two})

    def test_half_precision_is_exported_as_float32(self) -> None:
        model = torch.nn.Linear(5, 2).half()
        reference = sources.from_module(model, torch.zeros(1, 5).half())
        assert model.weight.dtype == torch.float16
        assert reference.module.weight.dtype == torch.float32
        assert any("float16" in note for note in reference.notes)

    def test_what_is_no_module_or_tensor(self) -> None:
        with pytest.raises(SourceError, match="got a dict"):
            sources.from_module({})  # type: ignore[arg-type]
        with pytest.raises(SourceError, match="hold a str"):
            sources.from_module(torch.nn.Linear(1, 1), "x")
        with pytest.raises(SourceError, match="meta device"):
            sources.from_module(torch.nn.Linear(1, 1, device="meta"), torch.zeros(1, 1))
        with pytest.raises(EdgetxError, match="example"):
            sources.from_module(torch.nn.Linear(1, 1))

    def test_images_for_a_model_that_takes_none(self) -> None:
        with pytest.raises(SourceError, match="no image processor"):
            sources.from_module(torch.nn.Linear(5, 2), torch.zeros(1, 5), images=samples.photographs())


class TestSamples:
    def test_photographs_exist(self) -> None:
        assert [path.name for path in samples.photographs()] == list(samples.NAMES)

    def test_without_scikit_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(samples, "find_spec", lambda _name: None)
        with pytest.raises(UnavailableError, match=r"--image FILE or pip install edgetx\[export\]"):
            sources.load(TINY, pretrained=False)

    def test_an_incomplete_installation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(samples, "NAMES", ("nope.png",))
        with pytest.raises(UnavailableError, match=r"without nope\.png"):
            samples.photographs()


class TestHub:
    def test_offline_mode_is_obeyed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        _hub.reachable.cache_clear()
        try:
            assert not _hub.reachable()
        finally:
            _hub.reachable.cache_clear()

    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [("refused", False), ("timeout", False), ("http", True), ("tls", True), ("ok", True)],
    )
    def test_the_probe(self, monkeypatch: pytest.MonkeyPatch, outcome: str, expected: bool) -> None:
        import io
        import ssl
        import urllib.error

        def answer(request: Any, timeout: float) -> Any:
            assert timeout <= _hub.PROBE_SECONDS
            if outcome == "ok":
                return io.BytesIO()
            raise {
                "refused": urllib.error.URLError(ConnectionRefusedError()),
                "timeout": TimeoutError(),
                "http": urllib.error.HTTPError(request.full_url, 405, "no", {}, None),  # type: ignore[arg-type]
                "tls": urllib.error.URLError(ssl.SSLError("certificate")),
            }[outcome]

        monkeypatch.undo()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("urllib.request.urlopen", answer)
        _hub.reachable.cache_clear()
        try:
            assert _hub.reachable() is expected
        finally:
            _hub.reachable.cache_clear()
