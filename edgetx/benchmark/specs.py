"""What a worker is asked to run."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["package", "onnx", "torch", "openvino", "null"]


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of a comparison.

    Attributes:
        name: how the report calls it; unique within one comparison.
        kind: `package` (edgetx.load), `onnx` (bare ONNX Runtime), `openvino` (bare OpenVINO on an ONNX
            file), `torch` (PyTorch eager on the module that a SOURCE names) or `null` (no model: a
            few matrix products).
        path: package folder, ONNX file, or SOURCE for `torch`.
        model: what is measured, whatever engine runs it; results of different models are not compared.
        inputs: `.npz` written by `edgetx.benchmark.feeds.save`, or several; None takes golden inputs of a
            package.
        files: for `package`, files that the package's processor reads instead of `inputs`.
        golden: for `package`, which golden inputs are run: the `first`, or `all`.
        stages: for `package`, run its stages one after the other and time each.
        runtime, optimization, custom_ops, provider: for `package`, as in `edgetx.load` and `Target`;
            `optimization` also holds for `onnx`.
        operators: for `onnx`, a library of custom operators that is registered.
        bound: for `onnx`, inputs and outputs are bound to memory once, so that a run neither copies nor
            allocates: for the time of the graph alone.
        threads: of this engine; None takes the comparison's.
        precision: what it computes in, for the report.
        device: `cpu` or `cuda[:index]`.
        pretrained: for `torch`, whether the SOURCE's trained weights are fetched; as in `edgetx.export`.
        shapes: for `torch` and a SOURCE `module:function`, its inputs as `name=dtype[dim,...]`.
        profile: a folder that the engine's own profiler writes into, see `Target`.
        products: for `null`, how many products of 128x128 matrices one run computes: work, not time, so that
            it takes longer where the machine is slower or busy, as a model does.
        slowed: every run is followed by computing for this share of the time it took: the slowdown that
            tests of the comparison itself inject.
    """

    name: str
    kind: Kind
    path: str = ""
    model: str = ""
    inputs: str | tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    golden: Literal["first", "all"] = "first"
    stages: bool = False
    runtime: str | None = None
    threads: int | None = None
    precision: str = ""
    device: str = "cpu"
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    custom_ops: bool = True
    provider: str = ""
    operators: str | None = None
    bound: bool = False
    pretrained: bool | None = None
    shapes: tuple[str, ...] = ()
    profile: str | None = None
    products: int = 0
    slowed: float = 0.0
