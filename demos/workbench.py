"""`workbench`: a checkpoint or a known architecture through the whole line, and what comes out of it."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr
import msgspec

from edgetx import runtimes
from edgetx.core import Runtime
from edgetx.demos import site
from edgetx.demos.line import STEPS, Line, Made, Said
from edgetx.demos.models import Store
from edgetx.errors import InputError
from edgetx.sweeps.isolation import Child

RECOGNISE = "recognised by the weights"
MOST_SECONDS = 1800.0
"""Of one run; a longer one is ended."""
BEAT = 0.5
"""Seconds between two looks at a run."""
NOTHING = "<p>Nothing was measured yet.</p>"
SUFFIXES = [".pth", ".pt", ".safetensors", ".bin", ".ckpt"]

STYLE = """
ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 1.75rem 1fr auto; padding: .45rem 0; }
li + li { border-top: 1px solid var(--border-color-primary); }
li.waits { opacity: .55; }
.said { grid-column: 2 / 4; opacity: .8; font-size: .9em; overflow-wrap: anywhere; }
.time { opacity: .8; font-variant-numeric: tabular-nums; }
.mark { font-weight: 700; }
.done .mark { color: #16a34a; } .failed .mark, .failed .said { color: #ef4444; }
.runs .mark { width: 1rem; height: 1rem; margin-top: .2rem; border-radius: 50%;
  border: 2px solid var(--color-accent); border-right-color: transparent;
  animation: turn 1s linear infinite; }
@keyframes turn { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .runs .mark { animation: none; } }
p { margin: 0; }
"""
MARKS = {"done": "✓", "failed": "✗", "left": "-", "runs": "", "waits": "·"}


class Steps:
    """What every step of a run did so far."""

    def __init__(self) -> None:
        self._said: dict[str, list[Said]] = {}
        self._began: dict[str, float] = {}
        self._ended: float | None = None
        self._error: str | None = None

    def hear(self, said: Said) -> None:
        """A line of progress."""
        self._began.setdefault(said.step, monotonic())
        self._said.setdefault(said.step, []).append(said)

    def end(self, error: str | None = None) -> None:
        """The run is over."""
        self._ended, self._error = monotonic(), error

    def html(self) -> str:
        """All steps, as a list."""
        begun = [*self._began.values(), self._ended or monotonic()]
        lines = []
        for step, title in STEPS.items():
            if step not in self._said:
                lines.append(_item("waits", title))
                continue
            number = list(self._began).index(step)
            left = [each.text for each in self._said[step] if each.state == "left out"]
            text, state = self._said[step][-1].text, "done"
            if number == len(self._began) - 1 and self._error is not None:
                text, state = self._error, "failed"
            elif number == len(self._began) - 1 and self._ended is None:
                state = "runs"
            elif left:
                text, state = "; ".join(left), "left"
            else:
                text = ""
            lines.append(_item(state, title, f"{begun[number + 1] - begun[number]:.1f} s", text))
        return f"<ol>{''.join(lines)}</ol>"


def _item(state: str, title: str, time: str = "", said: str = "") -> str:
    now = ' aria-current="step"' if state == "runs" else ""
    return (
        f'<li class="{state}"{now}><span class="mark" aria-label="{state}">{MARKS[state]}</span>'
        f'<span>{title}</span><span class="time">{time}</span>'
        + (f'<div class="said">{escape(said)}</div>' if said else "")
        + "</li>"
    )


def builders() -> list[str]:
    """Runtimes whose engines are built, where they are installed."""
    return [
        name
        for name, each in runtimes.runtimes().items()
        if type(each).build is not Runtime.build and each.version() is not None
    ]


def line(
    store: Store, checkpoint: str | None, model: str, engines: list[str], stock: bool, seconds: float
) -> Line:
    """What to ask of the line.

    Args:
        store: gives the architectures.
        checkpoint: path of an upload.
        model: a name of `store.architectures`, or `RECOGNISE`.
        engines, stock, seconds: see `Line`.

    Raises:
        InputError: neither a checkpoint nor an architecture; or weights twice.
    """
    options: dict[str, Any] = {"engines": tuple(engines), "stock": stock, "seconds": seconds}
    offered = None if model == RECOGNISE else store.architectures[model]
    if checkpoint is None:
        if offered is None:
            raise InputError("there is no checkpoint; drop one, or choose an architecture")
        return Line(source=offered.source, pretrained=None if offered.pretrained else False, **options)
    if offered is not None and offered.pretrained:
        raise InputError(
            f"{model} has weights of its own; choose {RECOGNISE!r}, or the architecture that the checkpoint "
            "belongs to"
        )
    return Line(source=Path(checkpoint).name, model=None if offered is None else offered.source, **options)


def run(store: Store, checkpoint: str | None, line: Line) -> Iterator[tuple[Steps, Made | None, Path]]:
    """Walk a line in a child process, which ends when this generator is closed.

    Yields:
        The steps so far, what was made at the end, and the folder of its files, which is removed afterwards.
    """
    heard: queue.Queue[str] = queue.Queue()
    steps = Steps()
    with ExitStack() as stack:
        folder = stack.enter_context(store.place())
        if checkpoint is not None:
            _link(Path(checkpoint), folder / Path(checkpoint).name)
        child = Child(
            "edgetx.demos.line", line, heard.put, folder=folder, environment={"HF_HUB_OFFLINE": "1"}
        )
        stack.enter_context(store.watched(child))
        try:
            end = monotonic() + MOST_SECONDS
            while child.running and monotonic() < end:
                _listen(heard, steps)
                yield steps, None, folder
            outcome = child.outcome(0)
            _listen(heard, steps)
        except GeneratorExit:
            # Gradio closes generators in the thread that serves everyone; the end takes its time elsewhere.
            threading.Thread(target=stack.pop_all().close).start()
            raise
        steps.end(outcome.error)
        made = None if outcome.answer is None else msgspec.convert(outcome.answer, Made)
        yield steps, made, folder


def _link(file: Path, other: Path) -> None:
    """The same file under another name, or a copy where the system does not link."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def _listen(heard: queue.Queue[str], steps: Steps) -> None:
    """Take what was said, waiting for the first line of it."""
    wait = BEAT
    while True:
        try:
            steps.hear(msgspec.json.decode(heard.get(timeout=wait), type=Said))
        except queue.Empty:
            return
        wait = 0.0


def report(made: Made) -> str:
    """What came out, as Markdown."""
    parts = [
        "### Package",
        site.facts(made.facts),
        "### Against PyTorch",
        _table(made.outputs),
        "### Measured",
        _table(made.engines),
        made.conditions,
    ]
    return "\n\n".join([*parts, *(f"- {_plain(note)}" for note in made.notes)])


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(map(_plain, cells))} |" for cells in lines)


def _plain(text: str) -> str:
    """Without what Markdown or HTML would make of it."""
    return escape(text, quote=False).replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")


def frame(page: str) -> str:
    """A whole HTML page inside another one, which its scripts cannot reach."""
    return (
        f'<iframe title="Report" sandbox="allow-scripts" srcdoc="{escape(page)}" '
        'style="width: 100%; height: 80vh; border: 0; background: white"></iframe>'
    )


def page(store: Store) -> gr.Blocks:
    """The page."""
    with site.blocks("workbench") as built:
        gr.Markdown(
            "# From a checkpoint to a package\nDrop a checkpoint, or choose an architecture, and watch the "
            "line run. Checkpoints are read as tensors only: pickled code is refused and never runs. The "
            "weights of architectures are random unless the list says otherwise."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                checkpoint = gr.File(
                    label=f"Checkpoint ({', '.join(SUFFIXES)})",
                    file_types=SUFFIXES,
                    type="filepath",
                    height=160,
                )
                # Gradio's own would leave an empty temporary file behind at every run.
                checkpoint.preprocess = lambda payload: None if payload is None else payload.path
                offered = [
                    (f"{name} (trained)" if each.pretrained else name, name)
                    for name, each in store.architectures.items()
                ]
                model = gr.Dropdown([RECOGNISE, *offered], value=offered[0][1], label="Architecture")
                able = builders()
                engines = gr.CheckboxGroup(
                    able,
                    value=able,
                    label="Engines to build"
                    if able
                    else "No engine is built here: pip install 'edgetx[tensorrt-rtx]'",
                    visible="hidden" if not able else True,
                )
                with gr.Accordion("Measuring", open=False):
                    stock = gr.Checkbox(True, label="Compare with PyTorch's own export")
                    seconds = gr.Slider(1, 20, value=3, step=1, label="Seconds per engine")
                with gr.Row():
                    button = gr.Button("Run the line", variant="primary")
                    stop = gr.Button("Stop")
            with gr.Column(scale=2, min_width=280):
                steps = gr.HTML(Steps().html(), css_template=STYLE, label="Steps", container=True)
                download = gr.DownloadButton("Download the package", interactive=False)
                summary = gr.Markdown(elem_classes="facts")
        with gr.Accordion("The whole report", open=False):
            framed = gr.HTML(NOTHING)
        checkpoint.upload(lambda: RECOGNISE, None, model, queue=False, show_progress="hidden")

        @site.shown
        def walk(
            checkpoint: str | None, model: str, engines: list[str], stock: bool, seconds: float
        ) -> Iterator[Any]:
            asked = line(store, checkpoint, model, engines, stock, seconds)
            empty = gr.update(value=None, interactive=False), "", NOTHING
            yield Steps().html(), *empty
            kept = (gr.skip(),) * len(empty)
            for done, made, folder in run(store, checkpoint, asked):
                if made is None:
                    yield done.html(), *kept
                    continue
                html = frame((folder / made.page).read_text("utf-8")) if made.page else NOTHING
                archive = gr.update(value=str(folder / made.archive), interactive=True)
                yield done.html(), archive, report(made), html

        going = button.click(
            walk,
            [checkpoint, model, engines, stock, seconds],
            [steps, download, summary, framed],
            api_name="walk",
            concurrency_id="heavy",
            show_progress_on=[steps],
        )
        stop.click(
            lambda: "<p>Stopped. Nothing of this run is kept.</p>",
            None,
            steps,
            cancels=going,
            queue=False,
            show_progress="hidden",
        )
    return built
