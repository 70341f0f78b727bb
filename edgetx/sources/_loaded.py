"""What a library hands over: a module and what its authors say about its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from edgetx.core import Weights

SEED = 0


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How a model wants its images, in the words of `edgetx.processors.ImageClassification`."""

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    resize_size: int | None = None
    labels: tuple[str, ...] | None = None


@dataclass(slots=True)
class Loaded:
    """A model as its library made it; `images` is None where it does not take RGB photographs."""

    module: torch.nn.Module
    name: str
    weights: Weights
    images: ImageSettings | None = None
    notes: list[str] = field(default_factory=list)


StateDict = Mapping[str, torch.Tensor]


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same random weights each time, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


def draw_constants(module: torch.nn.Module, name: str) -> str:
    """Finish the random weights of `module` and return the line that says that nothing was trained.

    Libraries start biases, tables and the norms at the end of SwinV2's branches as constants, mostly 0: a
    branch multiplied by 0 would pass any comparison. So each constant parameter gets noise of its own.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in module.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel()
                and (parameter == parameter.view(-1)[0]).all()
            ):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return (
        f"the weights of {name} are random (seed {SEED}): its outputs mean nothing, its speed and parity do"
    )


def settings_problem(name: str, options: Mapping[str, Any], error: Exception) -> str:
    """One line for a library's refusal of the options in a SOURCE."""
    given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
    return f"{name} cannot be built with {given}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
