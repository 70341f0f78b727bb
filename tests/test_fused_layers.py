"""The report of fused layers: a pure function over names, types and metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgetx.engines import fused
from edgetx.errors import PackageError

PLACES = {
    "node_MatMul_58": ("blocks.0.attn", "WindowAttention"),
    "node_Softmax_60": ("blocks.0.attn", "WindowAttention"),
    "node_MatMul_61": ("blocks.0.attn", "WindowAttention"),
    "window_attention": ("blocks.1.attn", "WindowAttention"),
    "node_Gather_7": ("blocks.2.attn", "WindowAttention"),
}


def layer(name: str, kind: str, *nodes: str, **more: Any) -> dict[str, Any]:
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [], "Metadata": metadata, **more}


# Written after the schema in TensorRT's developer guide ("Engine inspector") with detailed verbosity; there
# was no engine to take it from.
DOCUMENTED = {
    "Layers": [
        layer("__myl_Conv_myl0_0", "conv", "node_conv2d", TacticName="sm86_xmma_fprop"),
        layer(
            "_gemm_mha_v2_myl0_4", "kgen", "node_MatMul_58", "node_Softmax_60", "node_MatMul_61",
            TacticName="_gemm_mha_v2_0x5a4c",
        ),
        layer("window_attention", "PluginV3", "window_attention"),
        layer("__myl_Gather_myl0_9", "kgen", "node_Gather_7", "node_conv2d"),
        layer("__myl_Move_myl0_11", "kgen"),
    ],
    "Bindings": ["image", "logits"],
}  # fmt: skip


def test_layers_of_an_engine_belong_to_modules() -> None:
    found = fused.of_inspector(json.dumps(DOCUMENTED), PLACES)
    assert [each.module for each in found] == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    first, second, third = found
    assert (first.attention, first.plugin, first.leftovers) == (("_gemm_mha_v2_myl0_4",), (), ())
    assert (second.attention, second.plugin, second.leftovers) == ((), ("window_attention",), ())
    assert (third.attention, third.plugin, third.leftovers) == ((), (), ("__myl_Gather_myl0_9",))


def test_a_name_is_not_taken_for_a_fused_layer() -> None:
    """`window_attention` in a layer's name says nothing; `alpha_mhat` is no `mha`."""
    text = json.dumps({"Layers": [layer("node_window_attention_mhat", "kgen", "node_Gather_7")]})
    assert fused.of_inspector(text, PLACES)[2].leftovers == ("node_window_attention_mhat",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer 1: conv", "not JSON with Layers"),
        ("[]", "not JSON with Layers"),
        ('{"Layers": ["conv1", "conv2"]}', "without saying what they are made of; build the engine again"),
    ],
)
def test_answers_without_layers(text: str, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        fused.of_inspector(text, PLACES)


def test_the_file_is_read_back(tmp_path: Path) -> None:
    network = fused.of_network([("a", "PLUGIN_V3", "[ONNX Layer: window_attention]")], PLACES)
    assert network[1].plugin == ("a",)
    (tmp_path / fused.FILE).write_bytes(fused.encode(network, None))
    assert fused.read(tmp_path) == fused.Layers(network=network, engine=None)
    (tmp_path / fused.FILE).write_bytes(b"{")
    with pytest.raises(PackageError, match=r"layers.json cannot be read .* build the engine again"):
        fused.read(tmp_path)
