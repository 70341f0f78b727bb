"""timm: a registered model by name, one of the hub, or a local timm folder."""

from __future__ import annotations

import difflib
import sys
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

WEIGHT_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")


def load(
    name: str,
    options: dict[str, Any],
    *,
    pretrained: bool,
    state_dict: StateDict | None = None,
    checkpoint: str = "",
) -> Loaded:
    """Build a timm model.

    Args:
        name: a registered name with an optional tag, `hf-hub:ID`, or `local-dir:FOLDER`.
        options: keyword arguments of `timm.create_model`.
        pretrained: fetch trained weights; ignored with a `state_dict`.
        state_dict: weights to load instead, in timm's naming or any that timm converts.
        checkpoint: where the state dict came from, for messages.

    Raises:
        SourceError: unknown name or tag, refused options, unreachable weights, or weights that do not fit.
    """
    import timm

    title = f"timm:{name}"
    options = dict(options)
    notes: list[str] = []
    local = _local_folder(name, weights=pretrained and state_dict is None)
    if local is not None:
        name = f"local-dir:{local}"
    else:
        _check_name(name)
    if state_dict is not None:
        module = _from_state_dict(name, options, state_dict, checkpoint, title, notes)
        return Loaded(module, _short(title), "checkpoint", image_settings(module, notes), notes)
    if not pretrained:
        module = _create(name, options, title, notes)
        notes.append(draw_constants(module, title))
        return Loaded(module, _short(title), "random", image_settings(module, notes, trained=False), notes)
    overlay: dict[str, Any] = {}
    if local is None:
        config = timm.get_pretrained_cfg(name)
        if config is None or not (config.hf_hub_id or config.url or config.file):
            raise SourceError(
                f"timm has no trained weights for {name}; give --no-pretrained for random ones, or a "
                f"checkpoint of your own: PATH --model {title}"
            )
        if config.hf_hub_id:
            repository, revision = _hub.split_revision(config.hf_hub_id)
            files = (config.hf_hub_filename,) if config.hf_hub_filename else WEIGHT_FILES
            overlay = {"source": "", "file": str(_hub.fetch(repository, files, revision=revision))}
    with _hub.stall_timeout():
        module = _create(name, options, title, notes, pretrained=True, overlay=overlay)
    if "num_classes" in options and _trained_classes(module) != options["num_classes"]:
        notes.append(
            f"the classifier of {title} is random: num_classes={options['num_classes']} "
            "is not what it was trained with"
        )
    return Loaded(module, _short(title), "pretrained", image_settings(module, notes), notes)


def image_settings(
    module: torch.nn.Module, notes: list[str], *, trained: bool = True
) -> ImageSettings | None:
    """What a timm model's `pretrained_cfg` says of its images; None without one, or without RGB channels."""
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config

    if not getattr(module, "pretrained_cfg", None):
        return None
    config = resolve_model_data_config(module)
    channels, *size = config["input_size"]
    if getattr(module, "in_chans", channels) != 3 or channels != 3:
        notes.append("the model does not take RGB images")
        return None
    inner = getattr(module, "model", module)
    built_for = getattr(getattr(inner, "patch_embed", None), "img_size", None)
    if isinstance(built_for, (tuple, list)) and len(built_for) == 2:
        size = list(built_for)
    classes = getattr(module, "num_classes", 0)
    labels = None
    if trained and classes:
        subset = infer_imagenet_subset(module)
        info = ImageNetInfo(subset) if subset else None
        if info is not None and info.num_classes() == classes:
            labels = tuple(info.index_to_description(index) for index in range(classes))
    return ImageSettings(
        size=(int(size[0]), int(size[1])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        crop_mode="squash" if config["crop_mode"] == "squash" else "center",
        labels=labels,
    )


def _trained_classes(module: torch.nn.Module) -> int | None:
    config: Any = module.pretrained_cfg
    classes: int | None = config.get("num_classes")
    return classes


def _local_folder(name: str, *, weights: bool) -> Path | None:
    """The folder of a `local-dir:` or `hf-hub:` name, fetched where it is on the hub."""
    prefix, _, rest = name.partition(":")
    if not rest:
        return None
    if prefix == "local-dir":
        return Path(rest)
    if prefix not in ("hf-hub", "hf_hub"):
        raise SourceError(
            f"timm:{name} has an unknown prefix; accepted: timm:NAME, timm:hf-hub:ID, timm:local-dir:FOLDER"
        )
    repository, revision = _hub.split_revision(rest)
    config = _hub.fetch(repository, ("config.json",), revision=revision)
    if weights:
        _hub.fetch(repository, WEIGHT_FILES, revision=revision)
    return config.parent


def _check_name(name: str) -> None:
    import timm
    from timm.models import split_model_name_tag

    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.6)
        hint = (
            f"did you mean {', '.join(f'timm:{match}' for match in close)}?"
            if close
            else ("timm.list_models() lists the names")
        )
        raise SourceError(f"timm has no model {name!r}; {hint}")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise SourceError(
            f"timm knows no weights {tag!r} of {architecture}; "
            f"it has {', '.join(known) or 'none for this model'}"
        )


def _create(
    name: str,
    options: dict[str, Any],
    title: str,
    notes: list[str],
    *,
    pretrained: bool = False,
    overlay: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """Create the model, for any image size where timm offers it and the options do not decide."""
    import timm

    def create(**extra: Any) -> torch.nn.Module:
        module: torch.nn.Module = timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=overlay or None, **options, **extra
        )
        return module

    try:
        if {"strict_img_size", "dynamic_img_size"} & options.keys():
            return create()
        try:
            module = create(strict_img_size=False)
        except TypeError as error:
            if "strict_img_size" not in str(error):
                raise
            return create()
        notes.append(
            f"{title} is built with strict_img_size=False: one model for every image size, "
            "windows as at its own size"
        )
        return module
    except SourceError:
        raise
    except OSError as error:  # urllib's, requests' and the hub's network errors are OSErrors
        raise SourceError(
            f"cannot get the weights of {title}: {first_line(error)}; {_hub.CHOICES}"
        ) from error
    except Exception as error:  # constructors raise what they like for options that they cannot take
        raise SourceError(settings_problem(title, options, error)) from error


def _from_state_dict(
    name: str, options: dict[str, Any], state_dict: StateDict, checkpoint: str, title: str, notes: list[str]
) -> torch.nn.Module:
    feature_options = {
        key: options[key] for key in ("features_only", "out_indices", "feature_cls") if key in options
    }
    plain = {key: value for key, value in options.items() if key not in feature_options}
    if "num_classes" not in plain and (classes := _classes(name, state_dict)) is not None:
        plain["num_classes"] = options["num_classes"] = classes
        notes.append(f"{checkpoint} has {classes} classes: {title} is built with num_classes={classes}")
    module = _create(name, plain, title, notes)
    weights = _converted(dict(state_dict), module)
    _checkpoint.load_into(module, weights, model=title, checkpoint=checkpoint)
    if not feature_options.get("features_only"):
        return module
    # Only timm can wrap a model for its features, and it does so right after it has loaded the weights.
    overlay = {"source": "", "state_dict": dict(module.state_dict()), "custom_load": False}
    notes.clear()
    options = {key: value for key, value in options.items() if key != "num_classes"}
    return _create(name, options, title, notes, pretrained=True, overlay=overlay)


def _converted(state_dict: dict[str, Any], module: torch.nn.Module) -> StateDict:
    """Apply the conversion from the authors' naming that timm keeps beside each model."""
    own = module.state_dict()
    if state_dict.keys() == own.keys():
        return state_dict
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state_dict
    try:
        converted: StateDict = convert(dict(state_dict), module)
    except Exception:  # weights of another model: the comparison that follows names the differences
        return state_dict
    return converted


def _classes(name: str, state_dict: StateDict) -> int | None:
    """The number of classes that a checkpoint's classifier has, where it is not timm's own."""
    import timm

    config = None if name.startswith("local-dir:") else timm.get_pretrained_cfg(name)
    if config is None or not isinstance(config.classifier, str):
        return None
    for classifier in (config.classifier, "head"):
        weight = state_dict.get(f"{classifier}.weight")
        if weight is not None and weight.ndim >= 2:
            return int(weight.shape[0]) if weight.shape[0] != config.num_classes else None
    return None


def _short(title: str) -> str:
    return title.rpartition(":")[2].rstrip("/").rpartition("/")[2]
