"""What became of the attention of each PyTorch module: a fused layer, a plugin, or layers left over.

A node of the graph knows the module and the operator that it stands for, a layer knows the nodes that it was
made of. Two stages are looked at: the network that the parser made, which needs no GPU, and the built engine,
whose inspector needs the GPU that the engine is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetx.errors import PackageError

if TYPE_CHECKING:
    import onnx_ir as ir

FILE = "layers.json"
"""Beside `engine.plan`."""

Places = Mapping[str, tuple[str, str]]
"""Name of a node -> PyTorch module and operator, for nodes that stand for attention."""

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=$|[\s\x1c-\x1f,;+\[])")
"""How the parser writes a node's name into a layer's metadata; fused layers have several."""
_MHA = re.compile(r"(?:^|[^a-z])f?mha(?:$|[^a-z])", re.IGNORECASE)
"""In the name or tactic of a fused attention."""


def nodes_of(metadata: str) -> list[str]:
    """The names of the nodes that a layer was made of, from its metadata."""
    return _NODE.findall(metadata)


class Fused(msgspec.Struct, kw_only=True, frozen=True):
    """One operator of one PyTorch module: the names of its layers by what they are."""

    module: str
    operator: str
    attention: tuple[str, ...] = ()
    plugin: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()


class Layers(msgspec.Struct, kw_only=True, frozen=True):
    """`layers.json`: the parsed network, and the built engine where a GPU was there to look into it."""

    network: tuple[Fused, ...]
    engine: tuple[Fused, ...] | None = None


def modules(model: ir.Model) -> dict[str, tuple[str, str]]:
    """See `Places`: nodes of edgetx's operators and of their bodies, and standard `Attention`."""
    from edgetx.engines import graph

    found = {}
    for node in model.graph:
        operator = node.metadata_props.get(graph.OPERATOR_KEY)
        if operator is None and node.op_type == "Attention":
            operator = "Attention"
        if operator is not None and node.name is not None:
            module = node.metadata_props.get(graph.MODULE_KEY, "").strip("|").replace("|", ", ")
            found[node.name] = (module or str(node.name), operator)
    return found


def of_network(layers: Iterable[tuple[str, str, str]], places: Places) -> tuple[Fused, ...]:
    """What a parsed network holds, before anything is fused.

    Args:
        layers: name, type and metadata of every layer.
        places: see `modules`.
    """
    return _collect(((name, kind, "", metadata) for name, kind, metadata in layers), places)


def of_inspector(text: str, places: Places) -> tuple[Fused, ...]:
    """What an engine holds, from what its inspector says of it as JSON.

    Raises:
        PackageError: it is not the inspector's JSON, or the engine was built without detailed verbosity,
            which leaves only names.
    """
    try:
        layers = msgspec.json.decode(text)["Layers"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise PackageError(f"the engine inspector's answer is not JSON with Layers: {error}") from error
    if any(not isinstance(layer, dict) for layer in layers):
        raise PackageError(
            "the engine inspector names layers without saying what they are made of; build the engine again "
            "with this edgetx, which asks for detailed verbosity: edgetx build --force"
        )
    return _collect(map(_described, layers), places)


def _described(layer: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = str(layer.get("Name", ""))
    words = f"{name} {layer.get('TacticName', '')}"
    return name, str(layer.get("LayerType", "")), words, str(layer.get("Metadata", ""))


def _collect(layers: Iterable[tuple[str, str, str, str]], places: Places) -> tuple[Fused, ...]:
    found: dict[tuple[str, str], dict[str, list[str]]] = {
        place: {"attention": [], "plugin": [], "leftovers": []} for place in dict.fromkeys(places.values())
    }
    for name, kind, words, metadata in layers:
        made_of = {places[node] for node in nodes_of(metadata) if node in places}
        if "plugin" in kind.lower():
            what = "plugin"
        else:
            fused = "attention" in kind.lower() or _MHA.search(f"{kind} {words}")
            what = "attention" if fused else "leftovers"
        for place in made_of:
            found[place][what].append(name)
    return tuple(
        Fused(module=module, operator=operator, **{key: tuple(names) for key, names in kinds.items()})
        for (module, operator), kinds in found.items()
    )


def encode(network: tuple[Fused, ...], engine: tuple[Fused, ...] | None) -> bytes:
    """`layers.json`."""
    return msgspec.json.format(msgspec.json.encode(Layers(network=network, engine=engine)), indent=1) + b"\n"


def read(folder: Path) -> Layers:
    """`layers.json` of an engine's folder.

    Raises:
        PackageError: it is not there or damaged.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Layers)
    except (OSError, msgspec.DecodeError) as error:
        raise PackageError(
            f"{folder / FILE} cannot be read ({error}); build the engine again: edgetx build --force"
        ) from error
