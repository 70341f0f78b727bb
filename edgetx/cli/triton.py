"""`to-triton`: a package as a model of Triton Inference Server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from edgetx.cli import options
from edgetx.cli.console import emit_json, say, show, show_facts


class Backend(str, Enum):
    """What runs the model in the server."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


def to_triton(
    package: options.PackagePath,
    repository: Annotated[
        Path, typer.Argument(metavar="REPO", help="The model repository; made where it does not exist.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in the server; default the package's.")
    ] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="tensorrt takes an engine from the package.")
    ] = Backend.onnxruntime,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Write this stage instead of the whole.")
    ] = None,
    version: Annotated[
        int, typer.Option("--model-version", min=1, help="The version that is written; others stay.")
    ] = 1,
    serve: Annotated[
        str,
        typer.Option("--serve", metavar="VERSIONS", help="Served: latest:N, all, or numbers such as 1,3."),
    ] = "latest:1",
    instances: Annotated[
        list[str] | None,
        typer.Option(
            "--instances", metavar="KIND:N", help="Copies of the model: cpu:2, gpu:1, gpu:2@0,1; repeat."
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            "--max-batch", min=0, help="Requests joined at most; default 8 where the model takes a batch."
        ),
    ] = None,
    max_delay: Annotated[
        int, typer.Option("--max-delay", min=0, metavar="US", help="Microseconds to wait for more requests.")
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="Threads of an instance; 0 is ONNX Runtime's choice.")
    ] = 0,
    custom_ops: options.CustomOps = True,
    server_path: Annotated[
        str | None,
        typer.Option("--server-path", metavar="PATH", help="Where the server sees REPO, such as /models."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace this version, and the configuration.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write a package to a model repository of Triton Inference Server."""
    from edgetx import servers
    from edgetx.package import Package

    opened = Package.open(package)
    entry = servers.to_triton(
        opened if stage is None else opened.stage(stage),
        repository,
        name=name,
        backend=backend.value,
        version=version,
        versions=serve,
        instances=[servers.parse_instances(text) for text in instances or ()],
        max_batch=max_batch,
        max_delay=max_delay,
        threads=threads,
        custom_ops=custom_ops,
        server_path=server_path,
        force=force,
    )
    seen = server_path if server_path is not None else str(entry.path.parent)
    start = " ".join(["tritonserver", f"--model-repository={seen}", *entry.arguments])
    if json:
        for note in entry.notes:
            say(f"note: {note}")
        emit_json({"entry": entry, "start": start})
        return
    joined = f"up to {entry.max_batch}" if entry.max_batch else "none"
    show_facts(
        [
            ("model", str(entry.path)),
            ("backend", backend.value),
            ("version", str(entry.version)),
            ("joined requests", joined),
            ("start", start),
        ]
    )
    for note in entry.notes:
        show(f"note: {note}")
