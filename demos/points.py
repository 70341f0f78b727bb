"""`points`: a sweep through a detection package: boxes, windows and groups in 3D, the time of every stage."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

import edgetx
from edgetx import samples
from edgetx.demos import site
from edgetx.demos.models import Store
from edgetx.detection import Sweep, detect, processor_of
from edgetx.package import Package
from edgetx.points import READABLE, viewer


def run(store: Store, sweep: str | None, model: str, warm_up: bool, progress: Any) -> tuple[str, str, str]:
    """Find the boxes in one sweep.

    Args:
        store: gives the package.
        sweep: path of an upload.
        model: a name of `store.detectors`.
        warm_up: run once before what is timed.
        progress: a `gradio.Progress`.

    Returns:
        As HTML the 3D page in a frame, and the time of every stage; what was found, as Markdown.

    Raises:
        EdgetxError: whatever edgetx refuses.
    """
    path = site.check_sweep(sweep)
    say = site.steps(progress)
    package = store.package(store.detectors[model], "float32", say)
    processor = processor_of(package)
    say("opening the package")
    with edgetx.load(package, stages=bool(package.stages)) as session:
        say("running")
        found = detect(session, path, profiles=package.profiles, warm_up=warm_up)
        ran_on = session.describe()
    page = viewer(
        found.cloud.points,
        found.detections,
        classes=processor.classes,
        title=Path(path).name,
        facts=[found.summary, *found.notes],
        color="windows",
        partitions=processor.partitions(found.cloud.points, ("windows", "groups")),
    )
    return (
        frame(page),
        stages({**found.stages, "the model": found.seconds["run"]}),
        site.facts(_facts(found, package, ran_on, warm_up)),
    )


def _facts(found: Sweep, package: Package, ran_on: Mapping[str, str], warm_up: bool) -> dict[str, str]:
    cloud = found.cloud
    dropped = [f"{cloud.dropped_outside:,} out of the model's range"]
    if cloud.dropped_nonfinite:
        dropped.insert(0, f"**{cloud.dropped_nonfinite:,} with NaN or infinity**")
    number = Counter(each["label"] for each in found.detections)
    kept = f"{len(cloud.points):,} kept"
    if not len(cloud.points):
        kept = "**no point is left, so there is nothing to detect**"
    rows = {
        "points": f"{cloud.read:,} in the file, dropped {' and '.join(dropped)}, {kept}",
        "the model saw": ", ".join(f"{each:,} {symbol}" for symbol, each in found.counts.items()),
        "boxes": ", ".join(f"{each} {label}" for label, each in number.most_common()) or "none",
    }
    if found.notes:
        rows["note"] = "; ".join(found.notes)
    if not found.stages:
        rows["stages"] = (
            "the package is whole; `edgetx export --split` also writes stages, which are timed here"
        )
    weights = package.manifest.weights
    return rows | {
        "reading the file": f"{found.seconds['read'] * 1e3:.1f} ms",
        "timed": "one run, after one to warm up" if warm_up else "the first run, which also allocates memory",
        "weights": "**random: boxes mean nothing**" if weights == "random" else weights,
        "ran on": ", ".join(f"{key} {value}" for key, value in ran_on.items() if key != "stages"),
    }


def frame(page: str) -> str:
    """A page inside this one, which cannot reach it: it runs its script without an origin."""
    return (
        '<iframe title="Points and boxes in 3D" sandbox="allow-scripts" '
        f'srcdoc="{html.escape(page, quote=True)}"></iframe>'
    )


def stages(seconds: Mapping[str, float]) -> str:
    """Times as a table with bars, in HTML; the longest is the whole width."""
    whole = max(seconds.values(), default=0.0)
    rows = "".join(
        f"<div>{html.escape(name)}</div><div>{each * 1e3:.1f} ms</div>"
        f'<div><i style="width: {each / whole:.1%}"></i></div>'
        for name, each in seconds.items()
    )
    return f'<h3>Time of this run</h3><div class="stages">{rows}</div>' if rows else ""


def sweeps(store: Store) -> list[str]:
    """Sweeps to try: those of the store's folder, else a synthetic one for each number of columns."""
    if store.examples is not None:
        return site.copied(store, READABLE)
    folder = store.folder / "examples"
    folder.mkdir(exist_ok=True)
    paths = []
    for columns, forward in ((4, 0.0), (5, -60.0)):
        paths.append(folder / f"synthetic_{columns}_columns.bin")
        samples.sweep((forward, -40, -3, 70, 40, 1), columns, points=30_000).tofile(paths[-1])
    return list(map(str, paths))


def page(store: Store) -> gr.Blocks:
    """The page."""
    with site.blocks("points") as built:
        random = [name for name, model in store.detectors.items() if not model.pretrained]
        warning = (
            f"\n\n**The weights of {', '.join(random)} are random: boxes mean nothing.**" if random else ""
        )
        gr.Markdown(
            "# Boxes in a point cloud\nA LiDAR sweep through a detector: its boxes in 3D, its points in the "
            "colours of the windows and groups that attention looks through, and the time of every stage. "
            f"The first run of a model may also export and verify it, which takes minutes.{warning}"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                sweep = site.sweep_input()
                offered = sweeps(store)
                gr.Examples(
                    offered, sweep, label="Sweeps", example_labels=[Path(path).stem for path in offered]
                )
                names = list(store.detectors)
                model = gr.Dropdown(names, value=names[0], label="Model")
                warm_up = gr.Checkbox(
                    True, label="Warm up", info="Run once before: the first run also allocates memory"
                )
                button = gr.Button("Detect", variant="primary")
            with gr.Column(scale=1, min_width=280):
                times = gr.HTML()
        space = gr.HTML(elem_classes="space")
        report = gr.Markdown(elem_classes="facts")

        @site.shown
        def find(
            sweep: str | None,
            model: str,
            warm_up: bool,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> Any:
            return run(store, sweep, model, warm_up, progress)

        button.click(
            find,
            [sweep, model, warm_up],
            [space, times, report],
            api_name="detect",
            show_progress_on=times,
            concurrency_id="heavy",
        )
    return built
