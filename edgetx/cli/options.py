"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from edgetx.errors import InputError

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="timm:NAME, hf:ID or a transformers folder, a .pth/.pt/.safetensors file, module:function, "
        "or a known name (edgetx list).",
    ),
]
PackagePath = Annotated[Path, typer.Argument(metavar="PKG", help="A package folder.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout; progress stays on stderr.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The package's folder; default NAME.edgetx."),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained", help="Fetch trained weights (default), or draw random ones."
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="SOURCE", help="The model that a bare checkpoint's weights belong to."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=DTYPE[DIMS]", help=r"An input, e.g. x=float32\[n,3,64,64]; repeat."
    ),
]
Images = Annotated[
    list[Path] | None, typer.Option("--image", metavar="FILE", help="A photograph to use; repeat.")
]
Split = Annotated[
    bool,
    typer.Option("--split", help="Also write the model's stages, each to a file of its own."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing package.")]
Runtime = Annotated[
    str | None,
    typer.Option("--runtime", metavar="R", help="Runtime id (edgetx list); default the first usable."),
]


def _here(device: str) -> str:
    """A processor of this machine; a registered device is told apart from a wrong name."""
    from edgetx.devices import registry

    if not registry.is_reserved(device) and device.partition("/")[0] in registry.devices():
        raise InputError(
            f"the device {device!r} is a machine over SSH, where edgetx bench and edgetx sweep measure; "
            "accepted here: cpu, cuda, cuda:INDEX"
        )
    return device


Device = Annotated[str, typer.Option("--device", help="cpu or cuda[:index].", callback=_here)]
AnyDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="D",
        help="cpu, cuda[:index], or a device of `edgetx device add`: orin, orin/cuda.",
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", min=0, help="Threads of every engine; 0 takes the available physical cores."),
]
Provider = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="cuda|tensorrt|tensorrt_rtx",
        help="ONNX Runtime's execution provider on a GPU; default cuda.",
    ),
]
DerivedOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The new package's folder; default NAME.P.edgetx."),
]
CustomOps = Annotated[
    bool,
    typer.Option("--custom-ops/--no-custom-ops", help="Use edgetx's kernels, or the operators' ONNX bodies."),
]


class GraphOptimization(str, Enum):
    """How far an engine may change the graph."""

    none = "none"
    basic = "basic"
    extended = "extended"
    all = "all"


Optimization = Annotated[
    GraphOptimization,
    typer.Option("--optimization", help="Graph optimisation level of ONNX Runtime."),
]


class BodyVariant(str, Enum):
    """Standard operators behind each edgetx operator."""

    primitive = "primitive"
    attention = "attention"


Bodies = Annotated[
    BodyVariant,
    typer.Option(
        "--bodies",
        help="ONNX operators behind each edgetx operator, for engines without ours: "
        "attention (opset 23) or primitive (opset 20).",
    ),
]
