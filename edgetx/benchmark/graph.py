"""An ONNX graph as its nodes, as far as a profile needs it; weights are not loaded."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetx.errors import InputError, UnavailableError

MODULE_KEY = "edgetx.module"
"""Metadata of a package's nodes, see `edgetx.fusion`."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata that PyTorch's own exporter leaves."""


@dataclass(frozen=True)
class Node:
    """One node; `module` is the PyTorch module that it comes from, None where the graph does not tell."""

    name: str
    domain: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def operator(self) -> str:
        """`domain::Name`, without ONNX's own domain."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type


class Graph:
    """The nodes of a graph, without those of subgraphs and functions."""

    def __init__(
        self, nodes: Sequence[Node], constants: Mapping[str, tuple[str, list[int]]] | None = None
    ) -> None:
        """`constants` are the element types and shapes of weights."""
        self.nodes = list(nodes)
        self.constants = dict(constants or {})
        self._producers = {name: node for node in self.nodes for name in node.outputs}
        self._users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self._users.setdefault(name, []).append(node)

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read an ONNX file.

        Raises:
            UnavailableError: onnx is not installed.
            InputError: the file is no ONNX model.
        """
        try:
            onnx = importlib.import_module("onnx")
        except ImportError as error:
            raise UnavailableError(f"reading a graph needs onnx ({error}); pip install onnx") from error
        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's DecodeError, whatever protobuf implementation is installed
            raise InputError(f"{path} cannot be read as an ONNX model: {error}") from error
        constants = [*model.graph.initializer]
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.type == attribute.TENSOR:
                    attribute.t.name = node.output[0]
                    constants.append(attribute.t)
        return cls(
            [
                Node(
                    name=node.name or f"node {index}",
                    domain="" if node.domain == "ai.onnx" else node.domain,
                    op_type=node.op_type,
                    inputs=tuple(filter(None, node.input)),
                    outputs=tuple(filter(None, node.output)),
                    module=_module({entry.key: entry.value for entry in node.metadata_props}),
                    attributes={
                        attribute.name: _plain(onnx.helper.get_attribute_value(attribute))
                        for attribute in node.attribute
                        if attribute.type not in (attribute.GRAPH, attribute.GRAPHS, attribute.TENSOR)
                    },
                )
                for index, node in enumerate(model.graph.node)
            ],
            {
                each.name: (onnx.TensorProto.DataType.Name(each.data_type).lower(), list(each.dims))
                for each in constants
            },
        )

    @property
    def computed(self) -> set[str]:
        """The values that nodes compute."""
        return set(self._producers)

    def producer(self, value: str) -> Node | None:
        """The node that computes a value; None for inputs and weights."""
        return self._producers.get(value)

    def users(self, value: str) -> list[Node]:
        """The nodes that take a value."""
        return self._users.get(value, [])

    def renamed(self, value: str) -> str:
        """The value of the graph before optimization that this one holds.

        In ONNX Runtime's channel-blocked layout the graph's own name belongs to the copy in the usual layout.
        """
        for user in self.users(value):
            if user.domain == "com.microsoft.nchwc" and user.op_type == "ReorderOutput":
                return user.outputs[0]
        return value


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _module(metadata: dict[str, str]) -> str | None:
    if MODULE_KEY in metadata:
        return metadata[MODULE_KEY].split("|")[0]
    if SCOPES_KEY in metadata:
        scopes = [str(scope) for scope in ast.literal_eval(metadata[SCOPES_KEY])[:-1]]
        names = [scope.removeprefix("module.") for scope in scopes if scope and scope != "module"]
        return names[-1] if names else ""
    return None
