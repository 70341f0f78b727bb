"""What a worker is asked to run."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["package", "onnx", "torch", "openvino"]


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of a comparison.

    Attributes:
        name: how the report calls it; unique within one comparison.
        kind: `package` (edgetx.load), `onnx` (bare ONNX Runtime), `openvino` (bare OpenVINO on an ONNX
            file) or `torch` (PyTorch eager on the module that a SOURCE names).
        path: package folder, ONNX file, or SOURCE for `torch`.
        inputs: `.npz` written by `edgetx.benchmark.feeds.save`, or several; None takes golden input 0 of a
            package.
        files: for `package`, files that the package's processor reads instead of `inputs`.
        stages: for `package`, run its stages one after the other and time each.
        runtime, optimization, custom_ops: for `package`, as in `edgetx.load` and `Target`;
            `optimization` also holds for `onnx`.
        device: `cpu` or `cuda[:index]`.
        pretrained: for `torch`, whether the SOURCE's trained weights are fetched; as in `edgetx.export`.
        shapes: for `torch` and a SOURCE `module:function`, its inputs as `name=dtype[dim,...]`.
    """

    name: str
    kind: Kind
    path: str
    inputs: str | tuple[str, ...] | None = None
    files: tuple[str, ...] = ()
    stages: bool = False
    runtime: str | None = None
    device: str = "cpu"
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    custom_ops: bool = True
    pretrained: bool | None = None
    shapes: tuple[str, ...] = ()
