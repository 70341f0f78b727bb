"""transformers: a model of the Hugging Face hub or a local folder; code that comes with it never runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
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

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
WEIGHT_FILES = (*SAFETENSORS, "pytorch_model.bin", "pytorch_model.bin.index.json")
PROCESSOR_FILE = "preprocessor_config.json"

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def load(
    name: str,
    options: dict[str, Any],
    *,
    pretrained: bool,
    state_dict: StateDict | None = None,
    checkpoint: str = "",
) -> Loaded:
    """Build a model of the hub, `ORGANISATION/NAME[@REVISION]`; options as in `load_folder`.

    Raises:
        SourceError: see `load_folder`; or the hub cannot be reached and its cache lacks the files.
    """
    repository, revision = _hub.split_revision(name)
    folder = _hub.fetch(repository, ("config.json",), revision=revision).parent
    with suppress(SourceError):  # load_folder notes that it is missing
        _hub.fetch(repository, (PROCESSOR_FILE,), revision=revision)
    if pretrained and state_dict is None:
        weights = _hub.fetch(repository, WEIGHT_FILES, revision=revision)
        if weights.name.endswith(".index.json"):
            shards = json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()
            for shard in sorted(set(shards)):
                _hub.fetch(repository, (shard,), revision=revision)
    return load_folder(
        folder,
        options,
        pretrained=pretrained,
        state_dict=state_dict,
        checkpoint=checkpoint,
        title=f"hf:{name}",
    )


def load_folder(
    folder: Path,
    options: dict[str, Any],
    *,
    pretrained: bool,
    state_dict: StateDict | None = None,
    checkpoint: str = "",
    title: str | None = None,
) -> Loaded:
    """Build the model of a folder with `config.json` and, for trained weights, safetensors.

    Args:
        folder: a local folder in transformers' layout.
        options: settings that replace those of the configuration (`out_features=[...]`); `architecture=CLASS`
            chooses another class of transformers than `config.architectures` names.
        pretrained: load the folder's weights; ignored with a `state_dict`.
        state_dict, checkpoint: weights to load instead, and where they came from.
        title: how messages call the model.

    Raises:
        SourceError: damaged configuration, a class that transformers lacks, no or unfit weights.
    """
    title = title or str(folder)
    config, model_class, chosen = _configuration(folder, dict(options), title)
    notes: list[str] = []
    name = title.removeprefix("hf:").partition("@")[0].rstrip("/").rpartition("/")[2]
    images = image_settings(config, folder, notes)
    if state_dict is not None or not pretrained:
        try:
            module = model_class(config)
        except Exception as error:  # constructors raise what they like for settings that they cannot take
            raise SourceError(settings_problem(title, options, error)) from error
        if state_dict is None:
            notes.append(draw_constants(module, title))
            return Loaded(module, name, "random", images, notes)
        _checkpoint.load_into(module, state_dict, model=title, checkpoint=checkpoint)
        return Loaded(module, name, "checkpoint", images, notes)
    module = _trained(folder, model_class, config, title, notes, strict=not chosen)
    return Loaded(module, name, "checkpoint" if title == str(folder) else "pretrained", images, notes)


def image_settings(config: Any, folder: Path | None, notes: list[str]) -> ImageSettings | None:
    """From `preprocessor_config.json`, else ImageNet's statistics at the configuration's `image_size`."""
    size = getattr(config, "image_size", None)
    if getattr(config, "num_channels", 3) != 3:
        return None
    sides = (
        (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else None
    )
    labels = _labels(config)
    if folder is not None and (folder / PROCESSOR_FILE).is_file():
        return _processor_settings(folder, sides, labels, notes)
    if sides is None or len(sides) != 2:
        return None
    notes.append(
        f"no {PROCESSOR_FILE}: images are resized to {sides[0]}x{sides[1]} with ImageNet's mean and deviation"
    )
    return ImageSettings(size=(int(sides[0]), int(sides[1])), crop_mode="squash", labels=labels)


def _configuration(folder: Path, options: dict[str, Any], title: str) -> tuple[Any, Any, bool]:
    """The configuration, the class to build, and whether the user chose that class."""
    import transformers

    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(
            f"{folder} has no config.json; expected a transformers folder, or give a checkpoint file"
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} is not valid JSON ({error}); get a fresh copy") from error
    if not isinstance(stored, dict):
        raise SourceError(f"{path} holds no JSON object; get a fresh copy")
    chosen = options.pop("architecture", None)
    declared = (stored.get("architectures") or [None])[0]
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers raises value, key and type errors for what it does not know
        model_type = stored.get("model_type")
        code = "; it needs code of its own, which edgetx never runs" if "auto_map" in stored else ""
        raise SourceError(
            f"transformers {transformers.__version__} cannot read {path} (model_type {model_type!r}){code}: "
            f"{first_line(error)}"
        ) from error
    unknown = [
        key for key in options if key not in type(config)().to_dict() and not hasattr(type(config), key)
    ]
    if unknown:
        raise SourceError(
            f"{type(config).__name__} has no setting {unknown[0]!r}; give one that {title} knows"
        )
    wanted = chosen or declared
    if wanted is None:
        mapping = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        if type(config) not in mapping:
            raise SourceError(
                f"{path} names no architecture; choose a class of transformers: {title}?architecture=CLASS"
            )
        return config, mapping[type(config)], False
    model_class = getattr(transformers, str(wanted), None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        code = "; the folder's own code is never run" if "auto_map" in stored else ""
        raise SourceError(
            f"transformers {transformers.__version__} has no model class {wanted!r}, which {title} asks "
            f"for{code}; choose one with {title}?architecture=CLASS"
        )
    return config, model_class, chosen is not None


def _trained(
    folder: Path, model_class: Any, config: Any, title: str, notes: list[str], *, strict: bool
) -> torch.nn.Module:
    present = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if present is None:
        raise SourceError(
            f"{title} has no weights (looked for {', '.join(WEIGHT_FILES)} in {folder}); "
            "add them, or give --no-pretrained for random weights"
        )
    if present in ("model.safetensors", "pytorch_model.bin"):
        _checkpoint.read(folder / present)  # for its errors: pointers, truncation, pickled code
    try:
        module, report = model_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=present in SAFETENSORS,
            weights_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises value, key, runtime and OS errors for damaged folders
        raise SourceError(f"transformers cannot load the weights of {title}: {first_line(error)}") from error
    shapes = [
        f"{key} is {_shape(stored)} in the checkpoint and {_shape(own)} in the model"
        for key, stored, own in sorted(report["mismatched_keys"])
    ]
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if strict or shapes:
        _checkpoint.raise_misfit(
            model_class.__name__, str(folder / present), missing=missing, unexpected=[], shapes=shapes
        )
    if missing:
        notes.append(
            f"{model_class.__name__} adds weights that {title} was not trained with: {', '.join(missing)}"
        )
    if unexpected:
        notes.append(f"{model_class.__name__} does not use these weights of {title}: {', '.join(unexpected)}")
    result: torch.nn.Module = module
    return result


def _shape(size: Any) -> str:
    return "x".join(map(str, size)) or "a scalar"


def _labels(config: Any) -> tuple[str, ...] | None:
    """The classes' names, unless they are transformers' placeholders LABEL_0, LABEL_1, ..."""
    names: Mapping[int, str] = getattr(config, "id2label", None) or {}
    if not names or set(names) != set(range(len(names))):
        return None
    labels = tuple(str(names[index]) for index in range(len(names)))
    return None if all(label == f"LABEL_{index}" for index, label in enumerate(labels)) else labels


def _processor_settings(
    folder: Path, sides: tuple[int, ...] | None, labels: tuple[str, ...] | None, notes: list[str]
) -> ImageSettings | None:
    """Translate transformers' image processor: resize to a size, or the shorter side and crop; normalise."""
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=False
        )
        stored: dict[str, Any] = processor.to_dict()
    except Exception as error:  # transformers raises value, key and OS errors for what it does not know
        notes.append(
            f"transformers cannot read {PROCESSOR_FILE} ({next(iter(str(error).splitlines()), '')}): "
            "the package has no image processor"
        )
        return None
    size, crop = stored.get("size") or {}, stored.get("crop_size") or {}
    if not isinstance(size, Mapping) or not stored.get("do_rescale", True):
        notes.append(
            f"{PROCESSOR_FILE} has settings that edgetx does not know: the package has no image processor"
        )
        return None
    normalise = stored.get("do_normalize", True)
    common: dict[str, Any] = {
        "mean": tuple(stored["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        "std": tuple(stored["image_std"]) if normalise else (1.0, 1.0, 1.0),
        "interpolation": _RESAMPLING[int(stored.get("resample", 2))],
        "labels": labels,
    }
    cropped = (crop["height"], crop["width"]) if stored.get("do_center_crop") and "height" in crop else None
    if "height" in size and "width" in size:
        whole = (size["height"], size["width"])
        if cropped is None or cropped == whole:
            return ImageSettings(size=whole, crop_mode="squash", **common)
    elif "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        if cropped is not None:
            return ImageSettings(size=cropped, resize_size=edge, **common)
        if "crop_pct" in stored:  # ConvNeXt's: below 384 resize and crop, from 384 on squash
            if edge >= 384:
                return ImageSettings(size=(edge, edge), crop_mode="squash", **common)
            return ImageSettings(size=(edge, edge), resize_size=int(edge / stored["crop_pct"]), **common)
        if sides is not None and len(sides) == 2:
            return ImageSettings(size=(int(sides[0]), int(sides[1])), resize_size=edge, **common)
    notes.append(
        f"{PROCESSOR_FILE} has a size {dict(size)} that edgetx does not know: "
        "the package has no image processor"
    )
    return None
