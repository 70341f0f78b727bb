"""`classify`: the best classes of a photograph, and the windows of the first window attentions on it."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from edgetx.demos import site
from edgetx.demos.models import Store
from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.processors import ImageClassification

WINDOWS = {"none": None, "windows": False, "shifted windows": True}
"""What is drawn over the picture, and whether it is shifted."""


def run(
    store: Store, picture: str | None, model: str, overlay: str, progress: Any
) -> tuple[dict[str, float], Image.Image, str]:
    """Classify one picture.

    Args:
        store: gives the package.
        picture: path of an upload.
        model: a name of `store.classifiers`.
        overlay: one of `WINDOWS`.
        progress: a `gradio.Progress`.

    Returns:
        Probability by class; what the model saw with windows over it; what was measured, as Markdown.

    Raises:
        EdgetxError: whatever edgetx refuses.
    """
    path = site.check_picture(picture)
    say = site.steps(progress)
    package = store.package(store.classifiers[model], "float32", say)
    processor = package.processor
    if not isinstance(processor, ImageClassification):
        raise InputError(f"{package.name} classifies no pictures; offer a classifier")
    say("running")
    with store.sessions.of(package) as session:
        start = perf_counter()
        feeds = processor.preprocess(path, session.io)
        ready = perf_counter()
        outputs = session.run(feeds)
        ran = perf_counter()
        ran_on = session.describe()
    best = {
        str(each["label"] or f"class {each['index']}"): float(each["probability"])
        for each in processor.postprocess(outputs)
    }
    (tensor,) = feeds.values()
    seen = tensor[0].transpose(1, 2, 0) * np.asarray(processor.std) + np.asarray(processor.mean)
    image = Image.fromarray((seen.clip(0, 1) * 255).round().astype(np.uint8))
    rows = {
        "reading and resizing": f"{(ready - start) * 1e3:.1f} ms",
        "the model": f"{(ran - ready) * 1e3:.1f} ms",
        "weights": package.manifest.weights,
        "ran on": ", ".join(f"{key} {value}" for key, value in ran_on.items()),
    }
    shifted = WINDOWS[overlay]
    if shifted is not None:
        side, shift = windows(package, image.size, shifted=shifted)
        image = draw(image, side, shift)
        rows["windows"] = f"{side[1]}x{side[0]} pixels, moved by {shift[1]}x{shift[0]}"
    return best, image, site.facts(rows)


def windows(
    package: Package, size: tuple[int, int], *, shifted: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and shift, (height, width) in pixels of the model's input, of its first WindowAttention.

    Args:
        package: of the model, whose graph says how many pixels a token of that attention's map is.
        size: width and height of the input.
        shifted: take the first one that shifts instead.

    Raises:
        InputError: the model has no such attention, or its graph does not say how large its map is.
    """
    import onnx

    graph = onnx.load(package.model_path, load_external_data=False).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    for node in graph.node:
        if node.op_type != "WindowAttention" or node.domain != "edgetx":
            continue
        found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        shift = found.get("shift", [0, 0])
        if any(shift) != shifted:
            continue
        tokens = shapes.get(node.input[0])
        if tokens is None or len(tokens) != 4:
            break
        strides = [_stride(dim, side) for dim, side in zip(tokens[1:3], (size[1], size[0]), strict=True)]
        if None in strides:
            break
        pixels = [(a * s, b * s) for a, b, s in zip(found["window"], shift, strides, strict=True)]
        return (pixels[0][0], pixels[1][0]), (pixels[0][1], pixels[1][1])
    raise InputError(
        f"{package.name} has no {'shifted ' if shifted else ''}window attention whose windows can be drawn; "
        "choose another overlay"
    )


def _stride(dim: Any, side: int) -> Any:
    """Pixels of a token: from a fixed size, or from a symbolic one such as `(s0//4)`."""
    if dim.dim_value:
        return side // dim.dim_value
    match = re.fullmatch(r"\(?\w+//(\d+)\)?", dim.dim_param.replace(" ", ""))
    return int(match[1]) if match else None


def draw(image: Image.Image, side: tuple[int, int], shift: tuple[int, int]) -> Image.Image:
    """A grid over a copy of a picture, twice its size; `side` and `shift` are (height, width) in pixels."""
    zoom = 2
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for axis, length in ((0, image.height), (1, image.width)):
        first = shift[axis] or side[axis]
        for at in range(first * zoom, length, side[axis] * zoom):
            ends = [(0, at), (image.width, at)] if axis == 0 else [(at, 0), (at, image.height)]
            pen.line(ends, fill=(0, 0, 0), width=4)
            pen.line(ends, fill=(255, 200, 0), width=2)
    return image


def page(store: Store) -> gr.Blocks:
    """The page."""
    with site.blocks("classify") as built:
        random = [name for name, model in store.classifiers.items() if not model.pretrained]
        warning = (
            f"\n\n**The weights of {', '.join(random)} are random: classes mean nothing.**" if random else ""
        )
        gr.Markdown(
            "# Classify a photograph\nThe five best classes, and the windows inside which the first window "
            f"attention of the model looks.{warning}"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = site.picture_input()
                names = list(store.classifiers)
                model = gr.Dropdown(names, value=names[0], label="Model")
                overlay = gr.Radio(list(WINDOWS), value="windows", label="Overlay")
                button = gr.Button("Classify", variant="primary")
            with gr.Column(scale=1, min_width=280):
                label = gr.Label(label="Classes", num_top_classes=5)
                seen = gr.Image(
                    label="What the model saw",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                )
                report = gr.Markdown(elem_classes="facts")
        if photographs := site.photographs(store):
            gr.Examples(photographs, picture, label="Photographs")

        @site.shown
        def classify(
            picture: str | None,
            model: str,
            overlay: str,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> Any:
            return run(store, picture, model, overlay, progress)

        button.click(
            classify,
            [picture, model, overlay],
            [label, seen, report],
            api_name="classify",
            concurrency_id="heavy",
        )
    return built
