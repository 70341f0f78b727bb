"""The whole line on tiny models of the real architectures: export, verify, per module, many sizes."""

import subprocess
import sys
import textwrap

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import edgetx
from edgetx import capture, fusion, sources
from edgetx import package as packages
from edgetx.errors import ExportError, PackageError, VerificationError
from edgetx.pipeline import export_reference
from edgetx.verification import per_module

TINY_SWIN = (
    "timm:swin_tiny_patch4_window7_224?img_size=56&window_size=7&embed_dim=24&depths=(2,2)&num_heads=(2,4)"
    "&num_classes=10"
)
TINY_SWINV2 = (
    "timm:swinv2_tiny_window8_256?img_size=64&window_size=8&embed_dim=24&depths=(2,2)&num_heads=(2,4)"
    "&num_classes=10"
)


@pytest.fixture(scope="module", params=[TINY_SWIN, TINY_SWINV2], ids=["swin", "swinv2"])
def exported(request, tmp_path_factory):
    reference = sources.load(request.param, pretrained=False)
    output = tmp_path_factory.mktemp("packages") / "tiny"
    return reference, export_reference(reference, output=output)


def test_the_package_is_verified_against_pytorch(exported):
    _, package = exported
    assert package.verdict is not None and package.verdict.passed
    assert package.verdict.max_abs <= 1e-5
    assert package.manifest.operators["WindowAttention"] == 4
    assert package.manifest.operators["BiasGelu"] == 4
    assert package.manifest.weights == "random"


@pytest.mark.parametrize("size", [(56, 56), (64, 96), (100, 76)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("custom_ops", [True, False])
def test_one_file_serves_many_sizes(exported, size, batch, custom_ops):
    reference, package = exported
    image = np.random.default_rng(0).normal(size=(batch, 3, *size)).astype("float32")
    fresh = sources.load(reference.source, pretrained=False).module
    with torch.inference_mode():
        expected = fresh(torch.from_numpy(image)).numpy()
    with edgetx.load(package, target=edgetx.Target(custom_ops=custom_ops)) as session:
        (actual,) = session.run({package.io.inputs[0].name: image}).values()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_plain_onnxruntime_runs_the_file_without_edgetx(exported):
    _, package = exported
    case = package.golden()[0]
    session = onnxruntime.InferenceSession(package.model_path, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, dict(case.inputs))
    np.testing.assert_allclose(actual, *case.outputs.values(), rtol=0, atol=1e-5)


def test_the_graph_holds_no_trace_of_the_exporting_machine(exported):
    _, package = exported
    data = b"".join(path.read_bytes() for path in package.path.iterdir())
    assert b"site-packages" not in data
    assert str(package.path.parent).encode() not in data


def test_a_module_in_memory_is_exported_and_left_as_it_was(tmp_path):
    model = sources.load(TINY_SWIN, pretrained=False).module
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    package = edgetx.export(model, torch.zeros(1, 3, 56, 56), output=tmp_path / "mine")
    assert model.training
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert package.manifest.architecture == "swin"


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_an_unknown_model_goes_the_generic_way_and_says_so(tmp_path):
    package = edgetx.export(Mixer().eval(), torch.randn(2, 8), output=tmp_path / "mixer")
    assert package.manifest.architecture == "generic"
    assert any("no exporter" in note for note in package.manifest.notes)
    assert package.verdict.passed


class DataDependent(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_is_one_clear_error(tmp_path):
    with pytest.raises(ExportError, match="cannot trace"):
        edgetx.export(DataDependent(), torch.randn(2, 8), output=tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_differs_from_pytorch_is_not_written(tmp_path, monkeypatch):
    reference = sources.from_module(Mixer().eval(), torch.randn(2, 8))
    capture_good = capture.capture

    def capture_other_weights(reference, rewritten, **options):
        with torch.no_grad():
            rewritten.second.bias.add_(1e-3)
        return capture_good(reference, rewritten, **options)

    monkeypatch.setattr(capture, "capture", capture_other_weights)
    with pytest.raises(VerificationError, match="differs from PyTorch"):
        export_reference(reference, output=tmp_path / "mixer")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_package_is_replaced_only_on_request(tmp_path):
    model, example = Mixer().eval(), torch.randn(2, 8)
    first = edgetx.export(model, example, output=tmp_path / "p")
    manifest = (first.path / "manifest.json").read_bytes()
    with pytest.raises(PackageError, match="--force"):
        edgetx.export(model, example, output=tmp_path / "p")
    assert (first.path / "manifest.json").read_bytes() == manifest
    edgetx.export(model, example, output=tmp_path / "p", force=True)


def test_per_module_covers_the_model_and_passes(exported):
    reference, package = exported
    rows = per_module(package, reference)
    names = [row.name for row in rows]
    assert "patch_embed" in names and "layers.0.blocks.1" in names and "head" in names
    assert all(row.passed for row in rows)


@pytest.fixture
def damaged(exported, tmp_path):
    """The package with noise on one weight matrix."""
    _, package = exported
    model = ir.load(package.model_path)
    (weight,) = (
        value
        for node in model.graph
        if node.metadata_props.get(fusion.MODULE_KEY) == "layers.1.blocks.0.mlp.fc2"
        and node.op_type in ("MatMul", "Gemm")
        for value in node.inputs
        if value.is_initializer()
    )
    values = weight.const_value.numpy()
    noise = np.random.default_rng(0).normal(scale=0.1 * values.std(), size=values.shape)
    weight.const_value = ir.tensor((values + noise).astype("float32"), name=weight.name)
    with packages.create(tmp_path / "damaged") as draft:
        capture.save(model, draft.model_path)
        draft.save_golden(package.golden())
        draft.seal(package.manifest)
        return draft.publish()


def test_per_module_names_the_first_module_that_differs(exported, damaged):
    reference, _ = exported
    assert not edgetx.verify(damaged).passed
    rows = per_module(damaged, reference)
    failed = [row.name for row in rows if not row.passed]
    assert failed[0] == "layers.1.blocks.0"  # fc2's own output exists only inside a fused operator
    names = [row.name for row in rows]
    assert {"layers.0", "layers.1.blocks.0.mlp.act"} <= set(names[: names.index(failed[0])])


def test_per_module_refuses_another_model(exported):
    reference, package = exported
    other = sources.load(reference.source, pretrained=False)
    with torch.no_grad():
        other.module.head.fc.bias.add_(1.0)
    with pytest.raises(PackageError, match="golden output"):
        per_module(package, other)


def test_an_interrupted_export_leaves_nothing_behind(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys, torch, edgetx
        from torch import nn
        def progress(line):
            if line.startswith("verifying"):
                os.kill(os.getpid(), signal.SIGINT)
        edgetx.export(nn.Linear(4, 4).eval(), torch.zeros(2, 4), output=sys.argv[1], progress=progress)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out" / "p")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
