"""What an ONNX file holds: the facts behind `edgetx inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgetx.errors import InputError, UnavailableError


def describe_onnx(path: Path) -> dict[str, Any]:
    """Inputs, outputs, opsets, operators and functions of an ONNX file; weights are not loaded.

    `operators` and `custom_operators` count the nodes of the graph and its subgraphs, not of functions.

    Raises:
        UnavailableError: onnx is not installed.
        InputError: the file is no ONNX model.
    """
    try:
        import onnx
    except ImportError as error:
        raise UnavailableError(
            f"inspecting an ONNX file needs onnx ({error}); pip install 'edgetx[export]'"
        ) from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, whatever protobuf implementation is installed
        raise InputError(
            f"{path} cannot be read as an ONNX model ({error}); give a package folder or an .onnx file"
        ) from error
    if not model.graph.node and not model.opset_import:
        raise InputError(f"{path} holds no ONNX graph; give a package folder or an .onnx file")
    counts = Counter(_operators(model.graph))
    names = {"": "ai.onnx"}
    external = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [file for file in (path.parent / name for name in sorted(external)) if file.is_file()]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "external_bytes": sum(file.stat().st_size for file in files),
        "external_files": sorted(external),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {names.get(entry.domain, entry.domain): entry.version for entry in model.opset_import},
        "inputs": [_tensor(value, onnx) for value in model.graph.input],
        "outputs": [_tensor(value, onnx) for value in model.graph.output],
        "operators": {_label(domain, name): count for (domain, name), count in ranked},
        "custom_operators": {
            _label(domain, name): count
            for (domain, name), count in ranked
            if domain not in ("", "ai.onnx.ml")
        },
        "functions": [_function(function) for function in model.functions],
    }


def _operators(graph: Any) -> list[tuple[str, str]]:
    found = []
    for node in graph.node:
        found.append(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                found += _operators(inner)
    return found


def _function(function: Any) -> str:
    overload = f" ({function.overload})" if function.overload else ""
    return f"{_label(function.domain, function.name)}{overload}: {len(function.node)} nodes"


def _label(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name


def _tensor(value: Any, onnx: Any) -> str:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return f"{value.name} (not a tensor)"
    dims = [
        dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in kind.shape.dim
    ]
    return f"{value.name}={onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name}[{','.join(dims)}]"
