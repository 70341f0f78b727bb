"""The `Operator` noun: one ONNX operator of ours, and where its parts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import msgspec

from edgetx.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "edgetx"
VERSION = 1

Variant = Literal["primitive", "attention"]
"""`primitive`: opset-20 operators only. `attention`: opset 23's `Attention`."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)
MINIMUM_OPSET: Mapping[Variant, int] = {"primitive": 20, "attention": 23}
MINIMUM_IR_VERSION = 10
"""The first that has `overload`, which tells the bodies of one operator apart."""


class Operator(msgspec.Struct, frozen=True):
    """One operator; `package` holds `attributes`, `bodies` and `cost`, and for a `torch_name` two more.

    Those modules are imported on use: `definition` and `translation` need torch, `bodies` needs onnx_ir.
    Without a `torch_name` the operator is no PyTorch operator: `edgetx.fusion` makes its nodes.
    """

    name: str
    package: str
    summary: str
    torch_name: str | None = None

    def why_not(self, attributes: Any, shapes: Mapping[str, Any]) -> str | None:
        """None if the operator takes tensors of these shapes (input name -> shape), else the reason."""
        return cast("str | None", self._module("attributes").why_not(attributes, shapes))

    def flops(
        self, attributes: Mapping[str, Any], inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
    ) -> float:
        """Floating-point operations of one node, from its attributes and its tensors' shapes."""
        return float(self._module("cost").flops(self.name, attributes, inputs, outputs))

    def torch_overload(self) -> Any:
        """The PyTorch operator `torch_name`, registered by this call if it was not yet."""
        assert self.torch_name is not None
        return getattr(self._module("definition"), self.torch_name.partition("::")[2])

    def translation(self) -> Callable[..., Any]:
        """The function that emits the ONNX node (and nothing else) for the PyTorch operator."""
        return cast("Callable[..., Any]", self._module("translation").translate)

    def nodes(self, model: ir.Model) -> list[ir.Node]:
        """The nodes of this operator in `model`, subgraphs included."""
        import onnx_ir as ir

        return [
            node
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if node.domain == DOMAIN and node.op_type == self.name
        ]

    def attach_bodies(self, model: ir.Model, variant: Variant) -> None:
        """Give every node of this operator a model-local function that computes it in standard operators.

        Nodes with equal attributes, dtype and present inputs share one function, named by the node's
        `overload`. Bodies that are there already are replaced. The IR version is raised to 10 if need be.

        Raises:
            ExportError: the model's opset is too old for the variant, or a node's dtype or shape is unknown.
        """
        self.strip_bodies(model)
        nodes = self.nodes(model)
        if not nodes:
            return
        opset = model.opset_imports.get("", 0)
        if opset < MINIMUM_OPSET[variant]:
            raise ExportError(
                f"the model has opset {opset}; {variant!r} bodies need {MINIMUM_OPSET[variant]} or later"
                + ("; export with that opset, or attach 'primitive' bodies" if variant == "attention" else "")
            )
        model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)
        model.opset_imports[DOMAIN] = VERSION
        body_of_node = self._module("bodies").body_of_node
        for node in nodes:
            function: ir.Function = body_of_node(node, variant, opset)
            node.overload = function.overload
            model.functions[function.identifier()] = function

    def strip_bodies(self, model: ir.Model) -> None:
        """Remove this operator's functions, leaving only the nodes."""
        for identifier in [key for key in model.functions if key[:2] == (DOMAIN, self.name)]:
            del model.functions[identifier]
        for node in self.nodes(model):
            node.overload = ""

    def _module(self, name: str) -> Any:
        return import_module(f"{self.package}.{name}")
