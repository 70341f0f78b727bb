"""The nouns of the export side: what an exporter declares, and a loaded model. Imports no framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from edgetx.core import Feeds, IOSpec, Processor, Weights


@dataclass
class Reference:
    """A loaded PyTorch model in eval mode and all that the export needs to know of it.

    `module(*tensors)`, called with one tensor per `io.inputs` in order, returns a tensor, or a tuple or
    mapping of tensors matching `io.outputs`. `samples` are real inputs; the first one is traced.
    """

    module: torch.nn.Module
    io: IOSpec
    samples: Sequence[Mapping[str, Any]]
    architecture: str
    source: str
    name: str
    weights: Weights
    processor: Processor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rewrite:
    """A copy of a model whose attention modules are replaced by operators; the original is untouched."""

    module: torch.nn.Module
    replaced: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A part of a rewritten model that can be exported, timed and run on its own.

    `module(*tensors)` takes and returns tensors as `Reference.module` does. Inputs are, by name, inputs of
    the whole or outputs of earlier stages; `io.symbols` may start at 0 where a size depends on the data.
    """

    name: str
    module: torch.nn.Module
    io: IOSpec


class Architecture(ABC):
    """What an exporter declares about one family of models. Stateless; one instance per registry line."""

    id: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    presets: ClassVar[Mapping[str, str]]
    """Bare names that users may type -> SOURCE, e.g. `swin_tiny -> timm:swin_tiny_patch4_window7_224`."""

    @abstractmethod
    def recognises(self, module: torch.nn.Module) -> bool:
        """Whether `module` is (or wraps) a model of this family, from any of the supported libraries."""

    @abstractmethod
    def describe(self, module: torch.nn.Module, example: Any | None = None) -> IOSpec:
        """The inputs and outputs, with symbols for batch and, where the model takes it, height and width."""

    @abstractmethod
    def rewrite(self, module: torch.nn.Module) -> Rewrite:
        """A copy that shares the weights and calls edgetx operators; `module` itself is not changed."""

    def stages(self, module: torch.nn.Module) -> Sequence[Stage]:
        """The parts of a module that `rewrite` made, which run one after the other are the whole; () if none.

        Every output of the whole is an output of some stage.
        """
        return ()

    def samples(self, module: torch.nn.Module) -> Sequence[Feeds]:
        """Inputs to verify `module` with where random numbers would not do; () leaves them to its source."""
        return ()

    def golden(
        self, module: torch.nn.Module, samples: Sequence[Feeds]
    ) -> tuple[Sequence[Feeds], Sequence[str]]:
        """The inputs that a package of `module` is verified on, and notes on them; by default its samples.

        For models whose answer to some inputs is a matter of rounding.
        """
        return samples, ()

    def processor(self, module: torch.nn.Module) -> Processor | None:
        """The processor that goes with `module`; None leaves it to the library that the model came from."""
        return None

    def source_from_state_dict(self, state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """SOURCE and keyword arguments of the model that a bare checkpoint fits; None for another family."""
        return None
