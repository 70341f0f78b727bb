"""Histoformer: the attention against loops in float64, the exporter against the model, names of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetx import capture, exporters, sources  # noqa: E402
from edgetx.exporters.histoformer import histoformer, model  # noqa: E402

TINY = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "heads": (1, 2, 2, 4)}
CONFIGURATIONS = (
    TINY | {"ffn_expansion_factor": 2.0},
    TINY | {"dim": 8, "heads": (2, 2, 4, 4), "ffn_expansion_factor": 2.5, "bias": True, "centred": False},
)
SIZES = ((1, 16, 24), (2, 13, 21), (1, 1, 1))


def slow_attention(module: model.HistogramAttention, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One picture, value by value; convolutions by PyTorch in float64, everything else in loops."""
    channels, height, width = x.shape
    half, heads = channels // 2, module.heads
    x = x.copy()
    rows = np.argsort(x[:half], axis=1, kind="stable")
    x[:half] = np.take_along_axis(x[:half], rows, 1)
    columns = np.argsort(x[:half], axis=2, kind="stable")
    x[:half] = np.take_along_axis(x[:half], columns, 2)
    with torch.no_grad():
        mixed = module.qkv_dwconv(module.qkv(torch.from_numpy(x)[None]))[0].numpy()
    q1, k1, q2, k2, v = mixed.reshape(5, channels, height * width)
    pixels = height * width
    size = -(-pixels // heads)
    order = np.argsort(v, axis=1, kind="stable")
    ordered = [np.zeros((channels, heads * size)) for _ in range(5)]
    for into, part in zip(ordered, (q1, k1, q2, k2, v), strict=True):
        for channel in range(channels):
            for place, pixel in enumerate(order[channel]):
                into[channel, place] = part[channel, pixel]

    def attend(q: Any, k: Any, of_bin: Any) -> np.ndarray[Any, Any]:
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
    with torch.no_grad():
        out = module.project_out(torch.from_numpy(placed.reshape(1, channels, height, width)))[0].numpy()
    for indices, axis in ((columns, 2), (rows, 1)):
        moved = np.zeros_like(out[:half])
        np.put_along_axis(moved, indices, out[:half], axis)
        out[:half] = moved
    return out


@pytest.mark.parametrize(("channels", "heads", "shape"), [(4, 2, (6, 5)), (8, 4, (3, 7)), (2, 1, (1, 1))])
def test_attention_is_the_definition_in_loops(channels: int, heads: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = model.HistogramAttention(channels, heads, bias=True).double()
    with torch.no_grad():
        module.temperature.copy_(torch.rand(heads, 1, 1, dtype=torch.float64) + 0.5)
        x = torch.randn(2, channels, *shape, dtype=torch.float64)
        actual = module(x).numpy()
    for picture, answer in zip(x.numpy(), actual, strict=True):
        np.testing.assert_allclose(answer, slow_attention(module, picture), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", CONFIGURATIONS)
def test_one_dynamic_file(settings: dict[str, Any], randomized: Any) -> None:
    import onnx_ir as ir

    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    reference = sources.from_module(randomized(histoformer(**settings)))
    assert reference.architecture == "histoformer"
    rewritten = exporters.get("histoformer").rewrite(reference.module).module
    onnx_model = capture.capture(reference, rewritten)
    session = onnxruntime.InferenceSession(ir.to_proto(onnx_model).SerializeToString())
    generator = torch.Generator().manual_seed(1)
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            expected, copied = reference.module(x), rewritten(x)
        assert expected.shape == x.shape
        accepted = 1e-4 * max(1.0, expected.abs().max().item())
        assert (copied - expected).abs().max().item() <= accepted
        (answer,) = session.run(None, {"image": x.numpy()})
        assert float(np.abs(answer - expected.numpy()).max()) <= accepted


def test_names_of_the_authors_weights() -> None:
    state = histoformer().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["patch_embed.proj.weight"] == (36, 3, 3, 3)
    assert shapes["encoder_level1.0.attn_g.qkv.weight"] == (180, 36, 1, 1)
    assert shapes["latent.7.attn_g.temperature"] == (8, 1, 1)
    assert shapes["refinement.3.ffn.project_out.weight"][0] == 72


def test_a_bare_checkpoint_is_recognised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = histoformer(**CONFIGURATIONS[0])
    torch.save({"params": own.state_dict()}, tmp_path / "weather.pth")
    reference = sources.load(str(tmp_path / "weather.pth"))
    assert reference.architecture == "histoformer"
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(reference.module(x), own(x))


def test_random_weights_say_so() -> None:
    reference = sources.load("edgetx.exporters.histoformer:histoformer", pretrained=False)
    assert reference.weights == "random"
    assert any("random" in note for note in reference.notes)
