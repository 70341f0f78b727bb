"""Real engines, built by TensorRT-RTX without a GPU: targets, precisions, bodies and plugins."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import edgetx
from edgetx import building, cli, engines, precision
from edgetx.engines import fused
from edgetx.errors import InputError, UnavailableError
from edgetx.ops import plugin
from edgetx.package import Package
from edgetx.profiles import Profile, Range
from edgetx.runtimes.nvidia import bodies
from edgetx.runtimes.nvidia.worker import Parsed, oldest
from edgetx.runtimes.tensorrt_rtx import TensorRTRTXRuntime
from edgetx.runtimes.tensorrt_rtx.library import LIBRARY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed; pip install 'edgetx[tensorrt-rtx]'",
)
RUNTIME = TensorRTRTXRuntime()
NO_PLUGIN = plugin.why_not("tensorrt_rtx")
needs_plugin = pytest.mark.skipif(NO_PLUGIN is not None, reason=str(NO_PLUGIN))
SMALL = {"height": Range(32, 32, 64), "width": Range(32, 32, 64), "batch": Range(1, 1, 2)}
TARGETS = {"float32": ("8.6", "8.9", "12.0"), "float16": ("portable",)}


@pytest.fixture(scope="module")
def packages(swin: Package, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """The same model in float32 and float16."""
    half = precision.convert(swin, output=tmp_path_factory.mktemp("half") / "swin")
    return {"float32": swin, "float16": half}


@pytest.mark.parametrize("choice", ["primitive", "attention", pytest.param("plugin", marks=needs_plugin)])
@pytest.mark.parametrize("kind", TARGETS)
def test_every_choice_builds(packages: dict[str, Package], kind: str, choice: str) -> None:
    package = packages[kind]
    engine = edgetx.build(package, compute=TARGETS[kind], ranges=SMALL, bodies=choice)
    record = engine.record
    assert record is not None
    assert record.size > 100_000
    assert (record.key["compute"], record.key["precision"]) == (", ".join(TARGETS[kind]), kind)
    variant = "primitive" if choice == "plugin" else choice
    assert record.key["bodies"] == f"{variant} of edgetx {edgetx.__version__}"
    attention = [each for each in fused.read(engine.path).network if each.operator == "WindowAttention"]
    assert [each.module for each in attention] == ["layers.0.blocks.0.attn", "layers.0.blocks.1.attn"]
    for each in attention:
        assert bool(each.plugin) == (choice == "plugin")
        assert bool(each.attention) == (choice == "attention")
        assert bool(each.leftovers) == (choice != "plugin")
    assert fused.read(engine.path).engine is None or RUNTIME.why_not() is None  # needs a GPU


@needs_plugin
def test_an_operator_becomes_a_plugin_layer(packages: dict[str, Package]) -> None:
    """Asserted from the network itself."""
    for package in packages.values():
        chosen = bodies.choose(package, LIBRARY, "plugin")
        parsed = Parsed(LIBRARY, {"model": str(package.model_path), **chosen.for_graph()})
        assert parsed.ok
        kinds = [layer.type.name for layer in parsed.layers()]
        assert kinds.count("PLUGIN_V3") == package.manifest.operators["WindowAttention"] == 2
        assert "SOFTMAX" not in kinds


@needs_plugin
def test_an_engine_with_plugins_says_what_it_needs(
    swin: Package, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [f"{name}={each.min}:{each.opt}:{each.max}" for name, each in SMALL.items()]
    arguments = [each for size in sizes for each in ("--range", size)]
    command = ["build", str(swin.path), "--compute", "8.6", "--bodies", "plugin", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.app([*command, "--report"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    needs = f"WindowAttention of edgetx {edgetx.__version__}"
    assert f"edgetx's plugins: {needs}" in " ".join(printed.split())
    assert "layers.0.blocks.1.attn" in printed
    with pytest.raises(SystemExit):
        cli.app([*command, "--json", "--report"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["record"]["key"]["plugin"] == needs
    assert answer["built"] is False
    assert [each["plugin"] != [] for each in answer["layers"]["network"]].count(True) == 2

    edgetx.build(swin, compute=["8.6"], ranges=SMALL, bodies="plugin")
    monkeypatch.setattr(plugin, "why_no_kernels", lambda: None)
    found = RUNTIME.find(swin, "8.6")
    assert found is not None and found.record is not None and found.record.key["plugin"] == needs
    monkeypatch.setattr(plugin, "why_no_kernels", lambda: "the kernels are missing")
    found = RUNTIME.find(swin, "8.6")  # never the one that cannot run
    assert found is None or (found.record is not None and found.record.key["plugin"] == "none")


@needs_plugin
def test_a_plugin_of_another_version_is_named(swin: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = edgetx.build(swin, compute=["8.0"], ranges=SMALL, bodies="plugin")
    monkeypatch.setattr(bodies, "__version__", "9.9")
    assert RUNTIME.find(swin, "8.0") is None
    chosen = bodies.choose(swin, LIBRARY, "plugin")
    profiles = engines.choose(swin, engines.Request(ranges=SMALL))
    wanted = RUNTIME.key(swin, ("8.0",), profiles, chosen)
    why = engines.Cache(swin).why_none("tensorrt_rtx", wanted)
    assert why is not None
    assert (
        f"plugin (WindowAttention of edgetx {edgetx.__version__}, wanted WindowAttention of edgetx 9.9)"
        in why
    )
    assert engine.path.name in why


def test_a_missing_plugin_is_told(swin: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(plugin.VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(UnavailableError, match="which is no file"):
        edgetx.build(swin, compute=["8.6"], bodies="plugin")
    choices = RUNTIME.choices(swin)
    assert list(choices) == ["primitive", "attention", "plugin", "quick"]
    assert "TensorRT-RTX has no plugins that are compiled ahead of time" in str(choices["quick"])
    assert "which is no file" in str(choices["plugin"])


def test_bodies_that_there_are_not(swin: Package, classifier: Path) -> None:
    with pytest.raises(InputError, match="unknown bodies 'fused'; accepted: primitive, attention, plugin, q"):
        edgetx.build(swin, bodies="fused")
    with pytest.raises(
        InputError, match=r"no operator with a plugin .* it has none; give --bodies primitive"
    ):
        edgetx.build(classifier, bodies="plugin")
    with pytest.raises(UnavailableError, match="opset 20; Attention begins with 23; give --bodies primitive"):
        edgetx.build(classifier, bodies="attention")


def test_kernels_that_engines_carry_have_names_of_their_own(swin: Package) -> None:
    """One plugin for each number of inputs; the graph goes to TensorRT, which is not here."""
    pytest.importorskip("triton")
    from edgetx.engines import graph
    from edgetx.ops import quick

    model = graph.standard(swin.model_path, "primitive", bodies.QUICK_OPERATORS)
    quick.rename(model)
    found = [node.op_type for node in model.graph if node.domain == "edgetx"]
    assert found.count("WindowAttention4") == 2 and "WindowAttention" not in found
    chosen = bodies.Bodies("primitive", quick=bodies.QUICK_OPERATORS)
    assert bodies.of_key({"bodies": chosen.text, "plugin": chosen.plugin_text}) == chosen
    assert bodies.current({"bodies": chosen.text, "plugin": chosen.plugin_text})
    assert [oldest(each) for each in (["8.7"], ["portable"], ["12.0", "8.9"])] == ["8.7", "8.0", "8.9"]


def test_profiles_come_from_the_manifest(swin: Package) -> None:
    """As `edgetx profile-data` writes them."""
    import msgspec

    from edgetx.package import ProfileEntry

    own = tuple(
        ProfileEntry.of(Profile({"height": Range(32, 32, most), "width": Range(32, 32, most)}, 0.5))
        for most in (32, 64)
    )
    package = Package(swin.folder, msgspec.structs.replace(swin.manifest, profiles=own))
    engine = edgetx.build(package, compute=["8.6"], ranges={"batch": Range(1, 1, 2)})
    assert [each["height"].max for each in engine.profiles] == [32, 64]


def test_tuning_needs_the_gpu(swin: Package, classifier: Path) -> None:
    if RUNTIME.why_not() is None:
        pytest.skip("there is a GPU: tests/gpu measures")
    with pytest.raises(
        UnavailableError, match=r"tuning measures on the GPU, and there is none to use: .*driver"
    ):
        building.tune(swin, runtime="tensorrt_rtx")
    with pytest.raises(InputError, match="leave out --bodies plugin"):
        building.tune(swin, runtime="tensorrt_rtx", request=engines.Request(bodies="plugin"))
    with pytest.raises(InputError, match="ONNX Runtime runs packages as they are"):
        building.tune(classifier, runtime="ort")
    with pytest.raises(InputError, match="stages have no golden inputs"):
        building.tune(swin, runtime="tensorrt_rtx", stage="backbone")


@needs_plugin
def test_groups_become_a_plugin_layer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgetx.ops import group_attention
    from edgetx.ops.group_attention import GroupAttentionAttributes

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(16, 48)

        def forward(self, x: Any, groups: Any, inverse: Any) -> Any:
            q, k, v = self.qkv(x).split(16, -1)
            return group_attention.apply(GroupAttentionAttributes(2), q, k, v, groups, inverse)

    torch.manual_seed(0)
    places = torch.randperm(20, dtype=torch.int32)
    feeds = (torch.randn(20, 16), places.reshape(4, 5), places.argsort().int())
    package = edgetx.export(Net().eval(), feeds, output=tmp_path / "groups")
    for each in (package, precision.convert(package)):
        engine = edgetx.build(each, compute=["8.9"], bodies="plugin")
        (found,) = fused.read(engine.path).network
        assert found.operator == "GroupAttention"
        assert len(found.plugin) == 1
        assert not found.leftovers
