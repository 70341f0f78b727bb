"""`build`: engines of a package, built into its cache, listed and pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show, show_facts, show_table
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.building import Listed
    from edgetx.engines import Engine, Ranges


def build(
    package: options.PackagePath,
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="R", help="The runtime to build for.")
    ] = "tensorrt_rtx",
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Build this stage instead of the whole.")
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            "--compute",
            metavar="8.6,8.9|portable",
            help="Compute capabilities; default the GPU here, else portable.",
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            metavar="SYMBOL=MIN:BEST:MAX,...",
            help="An optimisation profile; repeat for several. Default the package's shape profiles.",
        ),
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option(
            "--range", metavar="SYMBOL=MIN:BEST:MAX", help="Sizes of one symbol in every profile; repeat."
        ),
    ] = None,
    limit: Annotated[float, typer.Option("--limit", help="Stop the build after so many seconds.")] = 900.0,
    force: Annotated[bool, typer.Option("--force", help="Build although the cache has the engine.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the engines of the package.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove engines that are stale, damaged or unfinished.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Build an engine of a package for a GPU that need not be here."""
    from edgetx import building
    from edgetx.engines import Request
    from edgetx.package import Package

    if list_ and prune:
        raise InputError("give --list or --prune, not both")
    opened = Package.open(package)
    if list_:
        return _list(building.listed(opened), json)
    if prune:
        return _pruned(building.prune(opened), json)
    request = Request(
        compute=[each for each in (compute or "").split(",") if each.strip()],
        profiles=[_ranges(text.split(",")) for text in profile or ()],
        ranges=_ranges(range_ or ()),
        seconds=limit,
        force=force,
    )
    with Progress() as progress:
        engine, built = building.ensure(
            opened, runtime=runtime, stage=stage, request=request, progress=progress
        )
    if json:
        emit_json({**_facts(engine, None), "built": built})
        return None
    how = f"built in {_seconds(engine)}" if built else f"was there already, built in {_seconds(engine)}"
    return show_facts([("engine", str(engine.plan)), ("", how), *_rows(engine)], title="edgetx build")


def _ranges(texts: Any) -> Ranges:
    from edgetx.engines import parse_range

    return dict(map(parse_range, texts))


def _seconds(engine: Engine) -> str:
    return "" if engine.record is None else f"{engine.record.seconds:.1f} s"


def _rows(engine: Engine) -> list[tuple[str, str]]:
    from edgetx.benchmark.report import size

    assert engine.record is not None
    key = engine.record.key
    return [("graph", engine.record.graph), *key.items(), ("size", str(size(engine.record.size)))]


def _facts(engine: Engine, problem: str | None) -> dict[str, Any]:
    return {"path": engine.path, "plan": engine.plan, "record": engine.record, "problem": problem}


def _list(found: list[Listed], json: bool) -> None:
    if json:
        emit_json([_facts(each.engine, each.problem) for each in found])
        return
    from edgetx.benchmark.report import size

    rows = []
    for engine, problem in found:
        record = engine.record
        state = problem or "ready"
        if record is None:
            rows.append((engine.path.name, "", "", "", "", "", state))
            continue
        key = record.key
        rows.append(
            (
                engine.path.name,
                record.graph,
                key.get("compute", ""),
                key.get("precision", ""),
                key.get("profiles", ""),
                f"{size(record.size)}, {record.seconds:.1f} s",
                state,
            )
        )
    if not rows:
        show("no engines; build one: edgetx build PKG --runtime tensorrt_rtx")
        return
    show_table(("engine", "graph", "compute", "precision", "profiles", "size, build", "state"), rows)


def _pruned(gone: list[Listed], json: bool) -> None:
    if json:
        emit_json([_facts(each.engine, each.problem) for each in gone])
        return
    for each in gone:
        show(f"removed {each.engine.path.name}: {each.problem}")
    show(f"{len(gone)} engines removed")
