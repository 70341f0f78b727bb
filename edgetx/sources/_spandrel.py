"""spandrel: image restoration models, recognised from a bare checkpoint or built by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from typing import Any

import torch

from edgetx.errors import SourceError
from edgetx.exporters import _modules
from edgetx.exporters._pictures import ImageModel
from edgetx.sources._loaded import Loaded, StateDict, draw_constants, first_line, settings_problem

CLOSE = 0.3
"""Share of an architecture's telling weights that a checkpoint must have to be called close to it."""


class Called(torch.nn.Module):
    """A model behind the function by which spandrel calls it: `call(model, image)`."""

    def __init__(self, model: torch.nn.Module, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, image)


def recognise(state_dict: StateDict) -> str | None:
    """The id of the first architecture whose weights these are, by spandrel's order; None for no one's."""
    import spandrel

    state = _canonical(state_dict)
    return next((str(entry.architecture.id) for entry in spandrel.MAIN_REGISTRY if entry.detect(state)), None)


def load_checkpoint(state_dict: StateDict, *, name: str, checkpoint: str) -> Loaded:
    """The model that these weights tell: architecture and hyper-parameters are read from them.

    Raises:
        SourceError: spandrel cannot build it, or it takes more than one picture.
    """
    import spandrel

    try:
        descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(_canonical(state_dict)))
    except Exception as error:  # constructors raise what they like for weights that contradict each other
        known = recognise(state_dict)
        raise SourceError(
            f"the weights in {checkpoint} look like {known} and do not build one: {first_line(error)}; "
            "the checkpoint is incomplete or from a changed copy of the model: --model module:function"
        ) from error
    return _loaded(descriptor, name, "checkpoint", checkpoint)


def load(
    name: str,
    options: dict[str, Any],
    *,
    pretrained: bool,
    state_dict: StateDict | None = None,
    checkpoint: str = "",
) -> Loaded:
    """Build `NAME`, an id of spandrel's registry, with the hyper-parameters in `options`.

    Raises:
        SourceError: no such architecture, unknown options, or trained weights were asked for.
    """
    import spandrel

    if name not in spandrel.MAIN_REGISTRY:
        ids = sorted(str(entry.architecture.id) for entry in spandrel.MAIN_REGISTRY)
        close = difflib.get_close_matches(name, ids, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(ids)}"
        raise SourceError(f"spandrel has no architecture {name!r}; {hint}")
    if state_dict is not None:
        raise SourceError(
            f"spandrel reads the hyper-parameters from the weights: leave out --model spandrel:{name} for "
            f"{checkpoint}"
        )
    if pretrained:
        raise SourceError(
            f"spandrel:{name} comes without weights; give a checkpoint file (its architecture is "
            "recognised), or --no-pretrained for random weights"
        )
    title = f"spandrel:{name}"
    entry = spandrel.MAIN_REGISTRY[name]
    try:
        module = _model_class(entry.architecture)(**options)
        note = draw_constants(module, title)
        descriptor = entry.architecture.load(dict(module.state_dict()))
    except Exception as error:  # constructors raise what they like for settings that they cannot take
        raise SourceError(settings_problem(title, options, error)) from error
    loaded = _loaded(descriptor, name.lower(), "random", title)
    loaded.notes.append(note)
    return loaded


def video_model(state_dict: StateDict) -> str | None:
    """The video architecture whose weights these are, as far as their names tell; None if no one's."""
    return next(
        (name for name, marks in _VIDEO.items() if any(key.startswith(marks) for key in state_dict)), None
    )


def closest(state_dict: StateDict) -> str | None:
    """The architecture that most of these weights' names fit, and what is missing; None if none does."""
    import spandrel

    names = set(_canonical(state_dict))
    best: tuple[float, str, list[str]] | None = None
    for entry in spandrel.MAIN_REGISTRY:
        found, missing = _telling(getattr(entry.architecture, "_detect", None), names)
        if not missing or not found:
            continue
        share = len(found) / (len(found) + len(missing))
        if share >= CLOSE and (best is None or share > best[0]):
            best = (share, str(entry.architecture.id), missing)
    if best is None:
        return None
    _, id, missing = best
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"closest is {id}, but these weights of it are missing: {', '.join(missing[:3])}{more}"


_VIDEO = {
    "BasicVSR, VRT or another model that follows motion with SpyNet": ("spynet.basic_module.",),
    "EDVR": ("pcd_align.", "fusion.temporal_attn1."),
    "FastDVDnet": ("temp1.inc.", "temp1.downc0."),
}
"""Restorers of videos, which take several frames -> how some of their weights' names begin."""


def _telling(condition: Any, names: set[str]) -> tuple[list[str], list[str]]:
    """The weights by which spandrel tells an architecture, those that are there and those that are not."""
    found: list[str] = []
    missing: list[str] = []
    for key in getattr(condition, "_keys", ()):
        if isinstance(key, str):
            (found if key in names else missing).append(key)
        elif not key(dict.fromkeys(names)):
            missing += _telling(key, names)[1][:1]
    return found, missing


def _model_class(architecture: Any) -> Any:
    """The model's class, which spandrel exports right after the architecture's."""
    module = sys.modules[type(architecture).__module__]
    return getattr(module, module.__all__[1])


def _loaded(descriptor: Any, name: str, weights: Any, checkpoint: str) -> Loaded:
    import spandrel

    id = str(descriptor.architecture.id)
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise SourceError(
            f"{checkpoint} is {id}, which takes a picture and a mask; edgetx restores from one picture: wrap "
            "the model in a module:function and name its inputs with --input"
        )
    model: Any = _modules.replace(descriptor.model.eval(), _SETTLED)[0]
    required = descriptor.size_requirements
    multiple = required.multiple_of
    unshuffled = getattr(model, "start_unshuffle", 1)
    if unshuffled > 1 and hasattr(model, "window_size"):
        # Windows are cut after the unshuffle, which spandrel's requirement leaves out.
        multiple = model.window_size * unshuffled
    notes = [
        f"{id} of spandrel {spandrel.__version__}: {descriptor.purpose}, x{descriptor.scale}, "
        f"{descriptor.input_channels} to {descriptor.output_channels} channels "
        f"({', '.join(descriptor.tags) or 'no tags'})"
    ]
    if descriptor.tiling is not spandrel.ModelTiling.SUPPORTED:
        notes.append(f"spandrel calls tiling of this model {descriptor.tiling.name.lower()}: seams may show")
    call = _CALLS.get(id, descriptor._call_fn)
    if not call.__qualname__.startswith("ImageModelDescriptor."):
        model = Called(model, call)  # it takes or returns more than a picture
    wrapped = ImageModel(
        model,
        scale=descriptor.scale,
        channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        minimum=required.minimum,
        multiple_of=multiple,
        square=required.square,
    )
    return Loaded(wrapped, name, weights, None, notes)


def _settled(module: Any) -> torch.nn.Module:
    """SPAN's convolution, which sets its own weight whenever it is called: no tracer survives that."""
    module.update_params()
    conv: torch.nn.Module = module.eval_conv
    return torch.nn.Sequential(conv, torch.nn.LeakyReLU(0.05)) if module.has_relu else conv


def _on_a_copy(model: Any, image: torch.Tensor) -> Any:
    return model(image.clone())


def _with_noise(model: Any, image: torch.Tensor) -> Any:
    """A map of the noise to remove goes in beside the picture: spandrel's level, for batches of any size."""
    if getattr(model, "mode", None) == "DnCNN":  # that one takes none
        return model(image)
    return model(torch.cat((image, torch.full_like(image[:, :1], 15 / 255)), dim=1))


_CALLS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "RCAN": _on_a_copy,
    "DRUNet": _with_noise,
    "DnCNN": _with_noise,
}
"""Instead of spandrel's: RCAN writes into the picture that it is given, the others take one at a time."""
_SETTLED = {"spandrel.architectures.SPAN.__arch.span.Conv3XC": _settled}


def _canonical(state_dict: StateDict) -> dict[str, torch.Tensor]:
    """Without the `netG.` that GAN trainers put before every name; `_checkpoint` removed the others."""
    if all(name.startswith("netG.") for name in state_dict):
        return {name.removeprefix("netG."): tensor for name, tensor in state_dict.items()}
    return dict(state_dict)
