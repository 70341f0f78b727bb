"""Histoformer: its parts against loops in float64, the file against the model, and what float32 settles.

Sorting makes the network discontinuous (see `exporters/histoformer/settled.py`), so exactness is shown in
float64, where near-ties do not occur, and in float32 on pictures that it settles.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import edgetx
from edgetx import exporters, samples, sources
from edgetx.errors import ExportError
from edgetx.exporters.histoformer import histoformer, model, settled

TINY = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
CONFIGURATIONS = (
    TINY | {"ffn_expansion_factor": 2.0},
    TINY | {"dim": 8, "heads": (2, 2, 4, 4), "ffn_expansion_factor": 2.5, "bias": True, "centred": False},
)
SHORT: dict[str, Any] = {"dim": 6, "num_blocks": (1, 0, 0, 0), "num_refinement_blocks": 0, "bias": True}
SHORT |= {"heads": (3, 1, 1, 1), "ffn_expansion_factor": 2.0}
"""Two blocks, since tracing takes seconds for each; 3 heads, since they do not divide 64 pixels."""

Array = np.ndarray[Any, Any]


def made(**settings: Any) -> model.Histoformer:
    """PyTorch's initial weights, which are the authors', and temperatures that are not all 1."""
    torch.manual_seed(0)
    network = histoformer(**settings)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("temperature"):
                parameter.copy_(0.5 + torch.rand_like(parameter))
    return network


def photographs(*sizes: tuple[int, int, int]) -> list[Array]:
    """Crops of real photographs, [B, 3, H, W] from 0 to 1."""
    image = pytest.importorskip("skimage.io")
    whole = [image.imread(path).astype(np.float32).transpose(2, 0, 1) / 255 for path in samples.photographs()]
    return [
        np.stack([whole[index % 3][:, 40 : 40 + height, 90 : 90 + width] for index in range(batch)])
        for batch, height, width in sizes
    ]


def convolved(conv: torch.nn.Conv2d, x: Array) -> Array:
    """A convolution [C, H, W] of stride 1, tap by tap; all channels mix or none does."""
    weight = conv.weight.detach().numpy()
    side, step, (pad, _) = weight.shape[2], conv.dilation[0], conv.padding
    _, height, width = x.shape
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((len(weight), height, width))
    for i in range(side):
        for j in range(side):
            part = x[:, step * i : step * i + height, step * j : step * j + width]
            tap = weight[:, :, i, j]
            out += tap[:, :, None] * part if conv.groups > 1 else np.tensordot(tap, part, 1)
    return out if conv.bias is None else out + conv.bias.detach().numpy()[:, None, None]


def sorted_half(x: Array, half: int) -> tuple[Array, dict[tuple[int, int, int], tuple[int, int]]]:
    """Each column of the first channels sorted, then each row, and where each value came from."""
    _, height, width = x.shape
    out, home = x.copy(), {}
    for channel in range(half):
        columns = [sorted((x[channel, row, column], row) for row in range(height)) for column in range(width)]
        for row in range(height):
            entries = sorted((columns[column][row][0], column) for column in range(width))
            for place, (value, column) in enumerate(entries):
                out[channel, row, place] = value
                home[channel, row, place] = (columns[column][row][1], column)
    return out, home


def slow_attention(module: model.HistogramAttention, x: Array) -> Array:
    """One picture [C, H, W], value by value."""
    channels, height, width = x.shape
    half, heads = channels // 2, module.heads
    x, home = sorted_half(x, half)
    mixed = convolved(module.qkv_dwconv, convolved(module.qkv, x))
    q1, k1, q2, k2, v = mixed.reshape(5, channels, height * width)
    pixels = height * width
    size = -(-pixels // heads)
    order = np.argsort(v, axis=1, kind="stable")
    ordered = [np.zeros((channels, heads * size)) for _ in range(5)]
    for into, part in zip(ordered, (q1, k1, q2, k2, v), strict=True):
        for channel in range(channels):
            for place, pixel in enumerate(order[channel]):
                into[channel, place] = part[channel, pixel]

    def attend(q: Any, k: Any, of_bin: Any) -> Array:
        """`of_bin(b)` lists the places of bin b; tokens are (channel, bin) pairs of one head's channels."""
        out = np.zeros((channels, heads * size))
        for head in range(heads):
            mine = range(head * channels // heads, (head + 1) * channels // heads)
            tokens = [(channel, each) for channel in mine for each in range(heads)]
            unit = {
                name: [part[c, of_bin(b)] / max(np.linalg.norm(part[c, of_bin(b)]), 1e-12) for c, b in tokens]
                for name, part in (("q", q), ("k", k))
            }
            temperature = module.temperature[head].item()
            for index, (channel, each) in enumerate(tokens):
                weights = [np.exp(temperature * unit["q"][index] @ key) for key in unit["k"]]
                total = 1 + sum(weights)
                for weight, (other, bin_) in zip(weights, tokens, strict=True):
                    out[channel, of_bin(each)] += weight / total * ordered[4][other, of_bin(bin_)]
        return out

    bins = attend(ordered[0], ordered[1], lambda b: np.arange(b * size, (b + 1) * size))
    frequencies = attend(ordered[2], ordered[3], lambda b: np.arange(b, heads * size, heads))
    product = bins * frequencies
    placed = np.zeros((channels, pixels))
    for channel in range(channels):
        for place, pixel in enumerate(order[channel]):
            placed[channel, pixel] = product[channel, place]
    out = convolved(module.project_out, placed.reshape(channels, height, width))
    back = out.copy()
    for (channel, row, column), (old_row, old_column) in home.items():
        back[channel, old_row, old_column] = out[channel, row, column]
    return back


def slow_feed_forward(module: model.FeedForward, x: Array) -> Array:
    """One picture [C, H, W]: `mish(dilated) * 5x5` of the map at twice its size."""
    mixed = convolved(module.project_in, x)
    _, height, width = x.shape
    large = np.zeros((len(mixed) // 4, 2 * height, 2 * width))
    for channel, row, column in np.ndindex(*large.shape):
        large[channel, row, column] = mixed[4 * channel + 2 * (row % 2) + column % 2, row // 2, column // 2]
    near, far = np.split(large, 2)
    far = convolved(module.dwconv_dilated2_1, far)
    product = far * np.tanh(np.log1p(np.exp(far))) * convolved(module.dwconv_5, near)
    small = np.zeros((4 * len(product), height, width))
    for channel, row, column in np.ndindex(*product.shape):
        small[4 * channel + 2 * (row % 2) + column % 2, row // 2, column // 2] = product[channel, row, column]
    return convolved(module.project_out, small)


@pytest.mark.parametrize(
    ("channels", "heads", "shape"), [(4, 2, (6, 5)), (8, 4, (3, 7)), (6, 1, (9, 2)), (2, 1, (1, 1))]
)
def test_blocks_are_the_definition_in_loops(channels: int, heads: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = model.HistogramAttention(channels, heads, bias=True).double()
    feed_forward = model.FeedForward(channels, 2 * channels, bias=True).double()
    x = torch.randn(2, channels, *shape, dtype=torch.float64)
    with torch.no_grad():
        attention.temperature.copy_(torch.rand(heads, 1, 1, dtype=torch.float64) + 0.5)
        results = (attention(x).numpy(), feed_forward(x).numpy())
    for index, picture in enumerate(x.numpy()):
        expected = (slow_attention(attention, picture), slow_feed_forward(feed_forward, picture))
        for result, loops in zip(results, expected, strict=True):
            np.testing.assert_allclose(result[index], loops, rtol=0, atol=1e-12)


@pytest.mark.parametrize("equal", [True, False])
def test_sorts_and_their_reversal(equal: bool) -> None:
    """Also of equal values, whose order is that of their places."""
    torch.manual_seed(0)
    attention = model.HistogramAttention(4, 2, bias=True).double()
    x = torch.randint(3, (1, 4, 5, 6)).double() if equal else torch.randn(1, 4, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(
            attention(x)[0], slow_attention(attention, x[0].numpy()), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("settings", [*CONFIGURATIONS, SHORT])
def test_the_rewritten_copy_is_the_model_in_float64(settings: dict[str, Any]) -> None:
    network = made(**settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rewritten = exporters.get("histoformer").rewrite(network.double()).module.double()
    for picture in photographs((1, 48, 48), (2, 24, 40), (1, 13, 21), (1, 5, 9)):
        x = torch.from_numpy(picture).double()
        with torch.no_grad():
            torch.testing.assert_close(rewritten(x), network(x), rtol=0, atol=1e-12)
    assert all(torch.equal(value.float(), before[name]) for name, value in network.state_dict().items())


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[model.Histoformer, edgetx.Package]:
    """A model and its verified package."""
    network = made(**SHORT)
    return network, edgetx.export(network, output=tmp_path_factory.mktemp("histoformer") / "weather")


Short = tuple[model.Histoformer, edgetx.Package]


def test_a_package_says_what_it_was_verified_on(short: Short) -> None:
    _, package = short
    assert package.manifest.architecture == "histoformer"
    assert package.processor.tiling == "discouraged"
    (note,) = (note for note in package.manifest.notes if "thumbnails of" in note)
    assert "PSNR" in note
    assert "1x7x6, 1x8x8, 2x8x8" in note
    shapes = [case.inputs["image"].shape for case in package.golden()]
    assert shapes[-3:] == [(1, 3, 7, 6), (1, 3, 8, 8), (2, 3, 8, 8)]
    assert package.verdict.passed and package.verdict.max_abs <= 1e-4


class GatherElements(OpRun):
    """onnx's own takes at most 64 along the axis."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        return (np.take_along_axis(data, indices, axis or 0),)


def test_the_file_is_the_model_in_float64(short: Short) -> None:
    """The exported graph with every float32 in it widened, at sizes with and without extension."""
    network, package = short
    evaluator = ReferenceEvaluator(_widened(onnx.load(package.model_path)), new_ops=[GatherElements])
    exact = copy.deepcopy(network).double()
    for picture in photographs((1, 24, 40), (2, 13, 21), (1, 5, 9)):
        x = picture.astype(np.float64)
        (answer,) = evaluator.run(None, {"image": x})
        with torch.no_grad():
            np.testing.assert_allclose(answer, exact(torch.from_numpy(x)), rtol=0, atol=1e-11)


def _widened(file: onnx.ModelProto) -> onnx.ModelProto:
    wide = copy.deepcopy(file)
    float32, float64 = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == float32:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))

    for tensor in wide.graph.initializer:
        widen(tensor)
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            assert node.op_type != "Cast" or attribute.i != float32
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type == float32:
            value.type.tensor_type.elem_type = float64
    del wide.graph.value_info[:]
    return wide


def test_onnx_runtime_where_float32_settles_the_answer(short: Short) -> None:
    network, package = short
    pictures = settled.choose(network, photographs((2, 64, 64), (1, 40, 72)))
    assert [each.shape for each in pictures][-3:] == [(1, 3, 7, 6), (1, 3, 8, 8), (2, 3, 8, 8)]
    assert len(pictures) > 3  # and a larger one
    exact = copy.deepcopy(network).double()
    with edgetx.load(package) as session, torch.no_grad():
        for picture in pictures:
            expected = network(torch.from_numpy(picture))
            assert (expected - exact(torch.from_numpy(picture).double())).abs().max().item() <= 1e-5
            (answer,) = session.run({"image": picture}).values()
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_onnx_runtime_is_as_near_the_truth_as_pytorch_where_it_does_not(short: Short) -> None:
    network, package = short
    exact = copy.deepcopy(network).double()
    ours = pytorchs = 0.0
    with edgetx.load(package) as session, torch.no_grad():
        for picture in photographs((2, 96, 96), (1, 67, 121)):
            x = torch.from_numpy(picture)
            truth = exact(x.double())
            pytorchs += (network(x) - truth).square().sum().item()
            (answer,) = session.run({"image": picture}).values()
            ours += (torch.from_numpy(answer) - truth).square().sum().item()
        assert 0.0 < ours <= 2**2 * pytorchs
        (answer,) = session.run({"image": np.full((1, 3, 1, 1), 0.5, np.float32)}).values()
    assert answer.shape == (1, 3, 1, 1)
    assert np.isfinite(answer).all()


def test_flat_pictures_settle_nothing() -> None:
    with pytest.raises(ExportError, match="--image FILE"):
        settled.choose(made(**TINY | {"ffn_expansion_factor": 2.0}), [np.full((1, 3, 5, 5), 0.5, np.float32)])


def test_names_of_the_authors_weights() -> None:
    state = histoformer().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["patch_embed.proj.weight"] == (36, 3, 3, 3)
    assert shapes["encoder_level1.0.attn_g.qkv.weight"] == (180, 36, 1, 1)
    assert shapes["latent.7.attn_g.temperature"] == (8, 1, 1)
    assert shapes["refinement.3.ffn.project_out.weight"][0] == 72


def test_a_bare_checkpoint_is_recognised(tmp_path: Path) -> None:
    own = made(**CONFIGURATIONS[0])
    torch.save({"params": own.state_dict()}, tmp_path / "weather.pth")
    reference = sources.load(str(tmp_path / "weather.pth"))
    assert reference.architecture == "histoformer"
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(reference.module(x), own(x))


def test_random_weights_say_so() -> None:
    reference = sources.load("edgetx.exporters.histoformer:histoformer", pretrained=False)
    assert reference.weights == "random"
    assert any("random" in note for note in reference.notes)
