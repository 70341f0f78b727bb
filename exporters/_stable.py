"""PyTorch's sorts as ONNX defines them: equal values keep their order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SORTS = {torch.sort, torch.Tensor.sort, torch.argsort, torch.Tensor.argsort}


class StableSorts(TorchFunctionMode):
    """A context in which every `sort` and `argsort` is stable.

    Without `stable=True` PyTorch leaves the order of equal values open, and on the CPU it is another one for
    each instruction set: a model whose answer depends on it has one answer per processor. ONNX's TopK puts
    the lower index first.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _SORTS:
            # The overload that takes `stable` takes the others by name only.
            given |= dict(zip(("dim", "descending"), args[1:], strict=False))
            given["stable"] = True
            args = args[:1]
        return func(*args, **given)
