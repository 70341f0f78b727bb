"""A `Reference` becomes an ONNX model: operators kept as nodes, their standard bodies attached.

The steps, in order: trace with `torch.export` (every symbol of the IOSpec stays symbolic), translate with
PyTorch's ONNX exporter (each edgetx operator becomes one node of domain `edgetx`), fuse what belongs together
(`edgetx.fusion`), name the dimensions, attach the operators' function bodies. The bodies come last because
the exporter inlines every function that is present while it runs.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import onnx_ir as ir
import onnx_ir.passes.common
import torch

from edgetx import __version__, fusion, ops
from edgetx.core import IOSpec, Reference, SymbolRange, TensorSpec
from edgetx.errors import ExportError
from edgetx.exporters import clone, flatten
from edgetx.exporters._refusal import node_names as refusal_names
from edgetx.ops.operator import MINIMUM_OPSET, Variant


class Positional(torch.nn.Module):
    """Calls a model with one tensor per input and returns a flat tuple, both in the order of the IOSpec."""

    def __init__(self, module: torch.nn.Module, io: IOSpec) -> None:
        super().__init__()
        self.module = module
        self.io = io

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(self.io.inputs)
        places = (tensors[count:],) if tensors[count:] else ()
        return flatten_outputs(self.module(*tensors[:count], *places), self.io)


class Resizing(Protocol):
    """A rewritten model that gathers its input to another size, by places that a part of it computes.

    The sizes of everything behind are long expressions of the input's then, and most of an export is spent on
    arithmetic with them. So the parts are traced apart, each with sizes of its own, and joined.
    """

    def places(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors of rank 2 or 3 whose last axis but one varies with the inputs' sizes; none at all."""

    def __call__(self, *inputs_and_places: Any) -> Any:
        """Called with the inputs and, where they were computed before, the tuple of places."""


EXTERNAL_DATA_BYTES = 64 * 2**20
"""Models whose weights are larger keep them in `model.onnx.data`, which engines map instead of copying."""


def capture(reference: Reference, rewritten: torch.nn.Module, *, bodies: Variant = "attention") -> ir.Model:
    """Trace `rewritten` (see `Architecture.rewrite`) and return the ONNX model.

    Args:
        reference: gives the IOSpec and the first sample, whose dtypes and fixed sizes are traced.
        rewritten: called with one tensor per input, in the order of `reference.io.inputs`.
        bodies: the variant of the operators' bodies to attach.

    Raises:
        ExportError: PyTorch cannot trace or translate the model, or a symbol turned out to be fixed.
    """
    io = reference.io
    args, shapes = _example(io, reference.samples[0])
    with _quiet(), torch.inference_mode():
        places = _places(rewritten, args, shapes)
        translate = partial(_translate, reference=reference, opset=MINIMUM_OPSET[bodies])
        model = translate(
            Positional(rewritten, io),
            (*args, *places),
            [*shapes, *({each.ndim - 2: torch.export.Dim.DYNAMIC} for each in places)],
        )
        if places:
            _join(translate(_Places(rewritten), args, shapes), model)
    _keep_module_names(model, refusal_names(rewritten))
    fusion.fuse(model)
    _name_dimensions(model, io)
    # An inner value may have had the name of an input or output already.
    ir.passes.common.NameFixPass()(model)
    ops.attach_bodies(model, bodies)
    model.producer_name, model.producer_version = "edgetx", __version__
    model.graph.name = reference.name
    return model


class _Places(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return cast(Resizing, self.module).places(*tensors)


def _places(
    rewritten: torch.nn.Module, args: tuple[torch.Tensor, ...], shapes: list[dict[int, Any]]
) -> list[torch.Tensor]:
    """Examples of what a `Resizing` model computes apart, of sizes that are no other input's.

    Each is longer than it would be: what is cut to the input's size then is cut indeed.
    """
    if not hasattr(rewritten, "places") or not all(len(each) > 1 for each in shapes):
        return []
    taken = {size for tensor in args for size in tensor.shape}
    found = []
    for tensor in cast(Resizing, rewritten).places(*args):
        size = tensor.shape[-2] + 1
        while size in taken:
            size += 1
        taken.add(size)
        found.append(tensor.new_zeros(*tensor.shape[:-2], size, tensor.shape[-1]))
    return found


def _join(first: ir.Model, model: ir.Model) -> None:
    """Let `first` compute the last inputs of `model` from the ones before, in place."""
    graph, before = model.graph, first.graph
    count = len(before.inputs)
    inputs, places = graph.inputs[:count], graph.inputs[count:]
    nodes = list(before)
    for value in [*before.initializers.values(), *(value for node in nodes for value in node.outputs)]:
        value.name = f"places/{value.name}"
        if value.producer() is not None:
            value.shape = None  # its symbols are other ones than the model's
    for ours, theirs in zip(before.inputs, inputs, strict=True):
        ir.convenience.replace_all_uses_with(ours, theirs)
    for made, taken in zip(before.outputs, places, strict=True):
        made.shape = taken.shape
        ir.convenience.replace_all_uses_with(taken, made)
    constants = list(before.initializers.values())
    before.outputs.clear()
    before.initializers.clear()
    before.remove(nodes)
    graph.insert_before(graph[0], nodes)
    for value in constants:
        graph.register_initializer(value)
    del graph.inputs[count:]
    # Both parts compute with the input's sizes.
    ir.passes.common.DeduplicateInitializersPass()(model)
    ir.passes.common.CommonSubexpressionEliminationPass()(model)


def save(model: ir.Model, path: Path) -> None:
    """Write `path`, with the weights in `<path>.data` beside it when they exceed `EXTERNAL_DATA_BYTES`."""
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if size > EXTERNAL_DATA_BYTES:
        ir.save(model, path, external_data=path.name + ".data", size_threshold_bytes=1024)
    else:
        ir.save(model, path)


def export_stock(reference: Reference, path: Path) -> str | None:
    """Export the unchanged model as PyTorch alone would: fixed shapes of the first sample, no operators.

    Returns:
        None on success, else why PyTorch's exporter could not.
    """
    sample = reference.samples[0]
    args = tuple(torch.from_numpy(sample[spec.name]) for spec in reference.io.inputs)
    with _quiet(), torch.inference_mode():
        try:
            exported = torch.onnx.export(
                Positional(clone(reference.module), reference.io),
                args,
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in reference.io.inputs],
                output_names=[spec.name for spec in reference.io.outputs],
            )
            assert exported is not None
            exported.save(path, external_data=True)
        except Exception as error:
            return _first_line(error)
    return None


def _example(io: IOSpec, sample: Mapping[str, Any]) -> tuple[tuple[torch.Tensor, ...], list[dict[int, Any]]]:
    """Zero tensors to trace with, and the dynamic dimensions of each.

    torch.export fixes sizes 0 and 1 and may tie equal sizes together, so every symbol gets a size of its
    own, at least 2, that is no fixed size of the inputs either.
    """
    taken = {dim for spec in io.inputs for dim in spec.shape if isinstance(dim, int)}
    sizes: dict[str, int] = {}
    dims: dict[str, Any] = {}
    for spec in io.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim not in sizes:
                allowed = io.symbols.get(dim, SymbolRange())
                sizes[dim] = _trace_size(allowed, int(sample[spec.name].shape[axis]), taken)
                taken.add(sizes[dim])
                dims[dim] = torch.export.Dim.DYNAMIC
    args = tuple(
        torch.zeros(
            [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape],
            dtype=getattr(torch, spec.dtype),
        )
        for spec in io.inputs
    )
    shapes = [
        {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in io.inputs
    ]
    return args, shapes


def _trace_size(allowed: SymbolRange, sampled: int, taken: set[int]) -> int:
    lowest = max(allowed.min, 2, min(sampled, 256))
    size = -(-lowest // allowed.step) * allowed.step
    while size in taken and (allowed.max is None or size + allowed.step <= allowed.max):
        size += allowed.step
    return size


def _translate(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    shapes: list[dict[int, Any]],
    *,
    reference: Reference,
    opset: int,
) -> ir.Model:
    program = _trace(module, args, shapes, reference)
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=True,
            opset_version=opset,
            custom_translation_table=ops.translation_table(),
        )
    except Exception as error:
        raise ExportError(
            f"{reference.name} was traced but cannot be written as ONNX: "
            f"{_first_line(error.__cause__ or error)}; "
            "replace the unsupported PyTorch operator in the model, or rewrite it in an exporter"
        ) from error
    assert exported is not None
    return exported.model


def _trace(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    shapes: list[dict[int, Any]],
    reference: Reference,
) -> torch.export.ExportedProgram:
    try:
        program = torch.export.export(module, args, dynamic_shapes=(tuple(shapes),), strict=False)
    except Exception as error:
        raise ExportError(
            f"PyTorch cannot trace {reference.name} with inputs {'; '.join(map(str, reference.io.inputs))}: "
            f"{_first_line(error)}; where a dimension cannot vary, give it as a number "
            "(--input name=dtype[dim,...])"
        ) from error
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [node.meta["val"] for node in placeholders[-len(args) :]]
    for spec, value in zip(reference.io.inputs, values, strict=False):
        for dim, size in zip(spec.shape, value.shape, strict=True):
            if isinstance(dim, str) and isinstance(size, int):
                raise ExportError(
                    f"{reference.name} fixes dimension {dim!r} of {spec.name!r} to {size} while it runs; "
                    f"give it as a number: --input {spec.name}={spec.dtype}"
                    f"[{','.join(str(size) if d == dim else str(d) for d in spec.shape)}]"
                )
    return program


def flatten_outputs(output: Any, io: IOSpec) -> tuple[torch.Tensor, ...]:
    """The tensors of a model's output (tensor, sequence, mapping, nested), in the order of `io.outputs`."""
    tensors = tuple(flatten(output).values())
    if len(tensors) != len(io.outputs):
        raise ExportError(
            f"the model returned {len(tensors)} tensors, expected {len(io.outputs)}: "
            f"{[spec.name for spec in io.outputs]}"
        )
    return tensors


def _keep_module_names(model: ir.Model, refusals: Mapping[str, str]) -> None:
    # The exporter also records stack traces with paths of the exporting machine: they stay out of packages.
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        node.metadata_props.clear()
        node.doc_string = None
        if scopes:
            path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope.startswith("module.")]
            if path:
                module = path[-1].removeprefix("module.")
                node.metadata_props[fusion.MODULE_KEY] = module
                node.name = refusals.get(module, node.name)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _name_dimensions(model: ir.Model, io: IOSpec) -> None:
    specs: Sequence[tuple[ir.Value, TensorSpec]] = [
        *zip(model.graph.inputs, io.inputs, strict=True),
        *zip(model.graph.outputs, io.outputs, strict=True),
    ]
    for value, spec in specs:
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's advice to its own developers; errors still arrive as exceptions.

    Stack traces of every node, a tenth of an export, are left out too.
    """
    from torch.fx import config

    kept = config.do_not_emit_stack_traces
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        config.do_not_emit_stack_traces = True
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.do_not_emit_stack_traces = kept
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
