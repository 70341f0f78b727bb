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
from edgetx.ops.group_attention import quick as quick_group
from edgetx.ops.group_attention.attributes import GroupAttentionAttributes
from edgetx.ops.window_attention import quick as quick_window
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

SWIN = WindowAttentionAttributes(
    num_heads=3, head_size=32, window=(7, 7), shift=(3, 3), mask="region", pad="after_roll"
)
FLATFORMER = GroupAttentionAttributes(num_heads=8).with_scale(128)


def compiled() -> dict[str, Any]:
    """Kernels of nodes for an Orin, assembled by NVIDIA's assembler."""
    found: dict[str, Any] = {}
    family = quick.family_of("8.7")
    windows = quick_window.fitting(SWIN, 288, "fp16", family)
    groups = quick_group.fitting(FLATFORMER, (16, 16), "fp16", family)
    kernels = {
        "2": (windows, quick_window.compile_kernel(SWIN, 2, 288, windows[0], family)),
        "4": (windows, quick_window.compile_kernel(SWIN, 4, 288, windows[0], family)),
        "groups": (groups, quick_group.compile_kernel(FLATFORMER, (16, 16), groups[0], family)),
    }
    for which, (configs, kernel) in kernels.items():
        head = kernel.ptx[: kernel.ptx.index("\n{")]
        cubin, registers, spilled = compiler._assemble(kernel.ptx, 87, new=False)
        found[which] = {
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

    def tensor(*sizes: str, dtype: Any = trt.DataType.HALF) -> Any:
        exprs = plugins.ShapeExprs.from_tuple([plugins.ShapeExpr(Expression.of(size)) for size in sizes])
        return plugins.TensorDesc(exprs, dtype)

    def ask(
        plugin: str, inputs: tuple[Any, ...], shapes: list[Any], values: dict[str, Any]
    ) -> dict[str, Any]:
        definition = plugins._lib.QDP_REGISTRY[f"edgetx::{plugin}"]
        out = definition.register_func(*inputs, **values)
        for each, shape in zip(inputs, shapes, strict=True):
            each.shape = plugins.Shape(shape)  # given from the choice of types on
        (combination,) = definition.autotune_func(*inputs, *values.values(), (out,))
        name, ptx, params, extra = definition.aot_impl_func(*inputs, *values.values(), (out,), 1)
        return {
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

    onnx = SWIN.to_onnx()
    window = {
        key: np.asarray(onnx[key], np.int32) if key in quick_window.PAIRS else onnx[key]
        for key in (*quick_window.FIELDS, *quick_window.PAIRS)
    }
    onnx = FLATFORMER.to_onnx()
    group = {key: onnx[key] for key in quick_group.FIELDS}
    features = [tensor("tokens", "128") for _ in range(3)]
    members = tensor("groups", "slots", dtype=trt.DataType.INT32)
    return {
        "version": trt.__version__,
        "names": names,
        "window": ask(
            "WindowAttention2",
            (tensor("batch", "height", "width", "288"), tensor("3", "49", "49")),
            [(-1, -1, -1, 288), (3, 49, 49)],
            window,
        ),
        "groups": ask("GroupAttentionSlots", (*features, members), [*[(-1, 128)] * 3, (-1, -1)], group),
    }


if __name__ == "__main__":
    print(json.dumps({"compiled": compiled, "declared": declared}[sys.argv[1]]()))
