"""`demo`: a page that shows what edgetx does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetx.cli.console import show_facts


def demo(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which demo; without one, they are listed.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Default: the first free one from 7860."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Also a public address, through a tunnel of Gradio's.")
    ] = False,
    package: Annotated[
        list[Path] | None,
        typer.Option("--package", help="Offer this package instead (classify, points); repeat for more."),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option("--examples", metavar="DIR", help="Offer its pictures or sweeps as examples."),
    ] = None,
) -> None:
    """Serve a demo in the browser until Ctrl-C."""
    from edgetx import demos

    if name is None:
        show_facts(demos.NAMES.items(), title="edgetx demo NAME")
        return
    demos.serve(name, host=host, port=port, share=share, packages=package or (), examples=examples)
