"""torchvision's registered models."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from edgetx.errors import SourceError
from edgetx.sources import _checkpoint, _hub
from edgetx.sources._loaded import (
    ImageSettings,
    Loaded,
    StateDict,
    draw_constants,
    first_line,
    settings_problem,
)


def load(
    name: str,
    options: dict[str, Any],
    *,
    pretrained: bool,
    state_dict: StateDict | None = None,
    checkpoint: str = "",
) -> Loaded:
    """Build a model of `torchvision.models`; the option `weights=NAME` chooses among several trained weights.

    Raises:
        SourceError: unknown name, refused options, unreachable weights, or weights that do not fit.
    """
    from torchvision import models

    title = f"torchvision:{name}"
    if name not in models.list_models():
        close = difflib.get_close_matches(name, models.list_models(), n=4, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(f'torchvision:{match}' for match in close)}?"
            if close
            else ("torchvision.models.list_models() lists the names")
        )
        raise SourceError(f"torchvision has no model {name!r}; {hint}")
    arguments = dict(options)
    entries = models.get_model_weights(name)
    chosen_name = str(arguments.pop("weights", "DEFAULT")).rpartition(".")[2]
    if chosen_name not in (*entries.__members__, "DEFAULT"):
        raise SourceError(
            f"{title} has no weights {chosen_name!r}; it has {', '.join(entries.__members__) or 'none'}"
        )
    entry: Any = (
        entries[chosen_name] if chosen_name in entries.__members__ else getattr(entries, "DEFAULT", None)
    )
    if pretrained and state_dict is None and entry is None:
        raise SourceError(
            f"torchvision has no trained weights for {name}; give --no-pretrained for random ones"
        )
    if state_dict is None and not pretrained:
        module = _create(name, arguments, title)
        return Loaded(module, name, "random", _settings(entry, labels=False), [draw_constants(module, title)])
    if state_dict is not None:
        notes = []
        classes = _classes(state_dict)
        known = None if entry is None else len(entry.meta.get("categories", ()))
        if "num_classes" not in arguments and classes is not None and known not in (None, classes):
            arguments["num_classes"] = classes
            notes.append(f"{checkpoint} has {classes} classes: {title} is built with num_classes={classes}")
        module = _create(name, arguments, title)
        _checkpoint.load_into(module, state_dict, model=title, checkpoint=checkpoint)
        same = "num_classes" not in arguments
        return Loaded(module, name, "checkpoint", _settings(entry, labels=same), notes)
    try:
        with _hub.stall_timeout():
            fetched = entry.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib, the file system, and torch for a damaged download
        raise SourceError(
            f"cannot get the weights of {title} from {entry.url}: "
            f"{first_line(error)}; "
            f"give --no-pretrained for random weights, or the file: PATH --model {title}"
        ) from error
    arguments.setdefault("num_classes", len(entry.meta.get("categories", ())) or 1000)
    module = _create(name, arguments, title)
    _checkpoint.load_into(module, fetched, model=title, checkpoint=str(entry))
    return Loaded(module, name, "pretrained", _settings(entry, labels=True), [])


def _create(name: str, options: dict[str, Any], title: str) -> torch.nn.Module:
    from torchvision import models

    try:
        module: torch.nn.Module = models.get_model(name, weights=None, **options)
    except Exception as error:  # constructors raise what they like for options that they cannot take
        raise SourceError(settings_problem(title, options, error)) from error
    return module


def _classes(state_dict: StateDict) -> int | None:
    for classifier in (
        "head",
        "fc",
        "heads.head",
        "classifier.3",
        "classifier.2",
        "classifier.1",
        "classifier.6",
    ):
        weight = state_dict.get(f"{classifier}.weight")
        if weight is not None and weight.ndim == 2:
            return int(weight.shape[0])
    return None


def _settings(entry: Any, *, labels: bool) -> ImageSettings | None:
    """From the evaluation transform that comes with the weights; None unless it is one for classification."""
    transform: Any = None if entry is None else entry.transforms()
    if type(transform).__name__ != "ImageClassification":
        return None
    return ImageSettings(
        size=(transform.crop_size[0], transform.crop_size[0]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        resize_size=transform.resize_size[0],
        labels=tuple(entry.meta["categories"]) if labels and "categories" in entry.meta else None,
    )
