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
    from edgetx.engines.fused import Layers


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
    bodies: Annotated[
        str,
        typer.Option(
            "--bodies",
            metavar="primitive|attention|plugin|quick",
            help="What stands for edgetx's operators; default the runtime's choice.",
        ),
    ] = "",
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure every choice of bodies on the GPU, keep the fastest.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="What became of each attention: fused, plugin or neither."),
    ] = False,
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
    from edgetx.engines import Request, fused
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
        bodies=bodies,
    )
    with Progress() as progress:
        if tune:
            engine = building.tune(opened, runtime=runtime, stage=stage, request=request, progress=progress)
            built = False
        else:
            engine, built = building.ensure(
                opened, runtime=runtime, stage=stage, request=request, progress=progress
            )
    layers = fused.read(engine.path) if report else None
    if json:
        emit_json({**_facts(engine, None), "built": built, **({"layers": layers} if report else {})})
        return None
    how = f"built in {_seconds(engine)}" if built else f"was there already, built in {_seconds(engine)}"
    show_facts([("engine", str(engine.plan)), ("", how), *_rows(engine)], title="edgetx build")
    return None if layers is None else _report(layers)


def _report(layers: Layers) -> None:
    if layers.engine is None:
        show("layers of the parsed network; no GPU here loads the engine, so what was fused is not known")
    found = layers.network if layers.engine is None else layers.engine
    rows = [
        (
            each.module,
            each.operator,
            *(str(len(names) or "") for names in (each.attention, each.plugin, each.leftovers)),
        )
        for each in found
    ]
    if not rows:
        show("the graph has no attention that edgetx knows")
        return
    show_table(("module", "operator", "fused attention", "plugin", "other layers"), rows)


def _ranges(texts: Any) -> Ranges:
    from edgetx.engines import parse_range

    return dict(map(parse_range, texts))


def _seconds(engine: Engine) -> str:
    return "" if engine.record is None else f"{engine.record.seconds:.1f} s"


def _rows(engine: Engine) -> list[tuple[str, str]]:
    from edgetx.benchmark.report import size

    assert engine.record is not None
    key = engine.record.key
    needs = key.get("plugin", "none")
    tuned = [
        (f"tuned, {choice}", each if isinstance(each, str) else f"{each:.3f} ms")
        for choice, each in engine.record.tuned.items()
    ]
    return [
        ("graph", engine.record.graph),
        *key.items(),
        ("size", str(size(engine.record.size))),
        *([("needs to run", f"edgetx's plugins: {needs}")] if needs != "none" else []),
        *tuned,
    ]


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
            rows.append((engine.path.name, "", "", "", "", "", "", state))
            continue
        key = record.key
        rows.append(
            (
                engine.path.name,
                record.graph,
                key.get("compute", ""),
                key.get("precision", ""),
                "plugin" if key.get("plugin", "none") != "none" else key.get("bodies", "").split(" ")[0],
                key.get("profiles", ""),
                f"{size(record.size)}, {record.seconds:.1f} s",
                state,
            )
        )
    if not rows:
        show("no engines; build one: edgetx build PKG --runtime tensorrt_rtx")
        return
    show_table(
        ("engine", "graph", "compute", "precision", "bodies", "profiles", "size, build", "state"), rows
    )


def _pruned(gone: list[Listed], json: bool) -> None:
    if json:
        emit_json([_facts(each.engine, each.problem) for each in gone])
        return
    for each in gone:
        show(f"removed {each.engine.path.name}: {each.problem}")
    show(f"{len(gone)} engines removed")
