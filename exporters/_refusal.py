"""Bad data that only a running graph sees. ONNX has no assertion: a node fails that says why in its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetx.core import REFUSAL


class Refusal(nn.Module):
    """`bad`, a bool scalar, to `0` int64 `[1]`, or the end of the run.

    The graph gathers beyond the end of a single element where `bad` holds, which ONNX Runtime refuses.
    `edgetx.capture` gives the nodes inside the name `REFUSAL + message`, and a session that fails in a node
    of such a name raises an InputError with the message. Engines that do not check indices go on. In
    PyTorch: an IndexError; say it in words of your own before.

    Args:
        message: what is wrong with the data and what to do, without quotes.
    """

    zero: Tensor

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message
        self.register_buffer("zero", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, bad: Tensor) -> Tensor:
        """To be added to what the graph goes on with, so that it is not left out as unused."""
        return self.zero.index_select(0, bad.long().reshape(1))


def node_names(module: nn.Module) -> dict[str, str]:
    """Path of each `Refusal` inside `module` -> the name of the nodes it becomes."""
    return {
        path: REFUSAL + inner.message for path, inner in module.named_modules() if isinstance(inner, Refusal)
    }
