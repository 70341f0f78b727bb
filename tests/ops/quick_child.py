"""Run by `test_quick.py` in a process of its own: Triton compiles here instead of interpreting.

TensorRT's Python bindings are real; of its libraries there are only the symbols that the bindings link to, so
that sizes are symbols of this file. Prints what was found as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from edgetx.ops import quick
from edgetx.ops.aot import compiler
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

SWIN = WindowAttentionAttributes(
    num_heads=3, head_size=32, window=(7, 7), shift=(3, 3), mask="region", pad="after_roll"
)


def compiled() -> dict[str, Any]:
    """Kernels of nodes with two and four inputs for an Orin, assembled by NVIDIA's assembler."""
    found: dict[str, Any] = {}
    family = quick.family_of("8.7")
    for count in (2, 4):
        configs = quick.fitting(SWIN, 288, "fp16", family)
        kernel = quick.compile_kernel(SWIN, count, 288, configs[0], family)
        head = kernel.ptx[: kernel.ptx.index("\n{")]
        cubin, registers, spilled = compiler._assemble(kernel.ptx, 87, new=False)
        found[str(count)] = {
            "name": kernel.name,
            "configs": len(configs),
            "pointers": head.count(".param .u64"),
            "numbers": head.count(".param .u32"),
            "order": [line.split()[1] for line in head.splitlines() if ".param" in line],
            "threads": kernel.threads,
            "shared": kernel.shared,
            "cubin": len(cubin),
            "registers": registers,
            "spilled": spilled,
        }
    return found


def declared() -> dict[str, Any]:
    """What is declared through TensorRT's own Python API, called as it calls it."""
    import tensorrt_bindings as trt

    sys.modules["tensorrt"] = trt
    import tensorrt_bindings.plugin as plugins

    sys.modules["tensorrt.plugin"] = plugins
    symbolic = plugins._tensor.SymIntExpr

    class Expression(trt.IDimensionExpr):
        """A size by name, or a number, or what was computed from them."""

        @staticmethod
        def of(text: str) -> Expression:
            made = Expression.__new__(Expression)
            made.__dict__["text"] = text
            return made

    signs = {"SUM": "+", "SUB": "-", "PROD": "*", "FLOOR_DIV": "//"}

    class Builder:
        def constant(self, number: int) -> Expression:
            return Expression.of(str(number))

        def operation(self, op: Any, one: Expression, two: Expression) -> Expression:
            if op.name == "CEIL_DIV":
                return Expression.of(f"(-(-{one.text} // {two.text}))")
            return Expression.of(f"({one.text} {signs[op.name]} {two.text})")

    symbolic._exprBuilder = Builder()
    names = quick.register(trt, "8.7", lazy=True)
    definition = plugins._lib.QDP_REGISTRY["edgetx::WindowAttention2"]
    onnx = SWIN.to_onnx()
    values = {
        key: np.asarray(onnx[key], np.int32) if key in quick.PAIRS else onnx[key]
        for key in (*quick.FIELDS, *quick.PAIRS)
    }

    def tensor(*sizes: str) -> Any:
        exprs = plugins.ShapeExprs.from_tuple([plugins.ShapeExpr(Expression.of(size)) for size in sizes])
        return plugins.TensorDesc(exprs, trt.DataType.HALF)

    inputs = tensor("batch", "height", "width", "288"), tensor("3", "49", "49")
    out = definition.register_func(*inputs, **values)
    inputs[0].shape = plugins.Shape((-1, -1, -1, 288))  # given from the choice of types on
    (combination,) = definition.autotune_func(*inputs, *values.values(), (out,))
    name, ptx, params, extra = definition.aot_impl_func(*inputs, *values.values(), (out,), 1)
    return {
        "version": trt.__version__,
        "names": names,
        "output": [each._expr.text for each in out.shape_expr],
        "types": combination.io_types,
        "tactics": list(combination._tactics),
        "kernel": name,
        "ptx": ptx[:200],
        "grid": params.grid_x._expr.text,
        "block": params.block_x._expr.text,
        "shared": params.shared_mem._expr.text,
        "extra": [each._expr.text for each in extra],
    }


if __name__ == "__main__":
    print(json.dumps({"compiled": compiled, "declared": declared}[sys.argv[1]]()))
