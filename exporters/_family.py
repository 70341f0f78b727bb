"""What Swin and SwinV2 have in common: how a model of three libraries is described and rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from edgetx.core import Architecture, IOSpec, Rewrite, SymbolRange, TensorSpec
from edgetx.exporters import _modules, generic
from edgetx.exporters._modules import Builder
from edgetx.exporters._windowed import WindowAttention


@dataclass(frozen=True)
class Image:
    """The one input of a vision model; a size that cannot vary is an int."""

    name: str
    projection: nn.Conv2d
    height: SymbolRange | int
    width: SymbolRange | int

    def spec(self) -> tuple[TensorSpec, dict[str, SymbolRange]]:
        """The TensorSpec, NCHW, and the range of its symbols."""
        symbols = {"batch": SymbolRange()}
        dims: list[int | str] = []
        for name, size in (("height", self.height), ("width", self.width)):
            if isinstance(size, SymbolRange):
                symbols[name] = size
                dims.append(name)
            else:
                dims.append(size)
        dtype = str(self.projection.weight.dtype).removeprefix("torch.")
        return TensorSpec(self.name, dtype, ("batch", self.projection.in_channels, *dims)), symbols


class WindowedFamily(Architecture):
    """A family of windowed transformers: a table of whole models, and a table of the modules to replace."""

    builders: ClassVar[Mapping[str, Builder]]
    """Class of a library -> what stands in for it."""
    marks: ClassVar[frozenset[str]]
    """The classes, among those of `builders`, that only a model of this family holds."""
    models: ClassVar[Mapping[str, Callable[[nn.Module], Image | None]]]
    """Class of a whole model -> its input; None where the model is another family's."""

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, self.marks)

    def rewrite(self, module: nn.Module) -> Rewrite:
        copied, notes = _modules.replace(_modules.clone(module), self.builders)
        replaced = tuple(name for name, inner in copied.named_modules() if isinstance(inner, WindowAttention))
        return Rewrite(copied, replaced, tuple(notes))

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around a model of this family needs an example."""
        image = next(
            (find(module) for name, find in self.models.items() if _modules.is_a(module, {name})), None
        )
        rewritten = self.rewrite(module).module
        if image is None:
            return generic.describe(rewritten, example)
        spec, symbols = image.spec()
        classes = getattr(module, "num_classes", None)
        single = "features" if classes == 0 else "logits"
        outputs = _modules.output_specs(rewritten, (spec,), symbols, lambda name: _output_name(name, single))
        return IOSpec((spec,), outputs, symbols)


def _output_name(name: str, single: str) -> str:
    """`output` and `output_3`, as `flatten` calls what has no name, become what vision models return."""
    return (
        single if name == "output" else name.replace("output_", "feature_") if name[:7] == "output_" else name
    )
