"""Random weights under which every part of a detector matters and some tens of boxes are found."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edgetx import samples
from edgetx.exporters.flatformer.head import head_maps
from edgetx.exporters.flatformer.model import Detector

FOUND = 36
"""Candidates on the synthetic sweep, shared out evenly among the classes."""


def draw(detector: Detector) -> Detector:
    """Draw all weights from torch's generator, then fit what training would to a synthetic sweep.

    That is the BatchNorms' statistics, and the last convolutions, so that the maps have the range of what
    they stand for. PyTorch's own start has constant norms and biases, and a heat map that is nearly the same
    everywhere. Empty ground stays below the threshold: equal scores have no order that all engines agree on.
    """
    config = detector.config
    sweep = torch.from_numpy(samples.sweep(config.point_range, config.columns))
    with torch.no_grad():
        norms = [
            module for module in detector.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        ]
        for module in detector.modules():
            _draw(module)
        hooks = [norm.register_forward_pre_hook(_fit) for norm in norms]
        maps = dict(zip(head_maps(config), detector.eval().maps(sweep), strict=True))
        for hook in hooks:
            hook.remove()
        head: Any = detector.bbox_head.task_heads[0]
        for name, values in maps.items():
            spread, means = _TYPICAL[name]
            factor, start = spread / values.std(), torch.tensor(means or (0.0,) * values.shape[1])
            last = getattr(head, name)[-1]
            last.weight.mul_(factor)
            last.bias.copy_((last.bias - values.mean((0, 2, 3))) * factor + start)
            maps[name] = (values - values.mean((0, 2, 3), keepdim=True)) * factor + start[:, None, None]
        certainty = maps["iou"].flatten().clamp(0, 1) ** config.iou_power
        lowest = torch.logit((config.score_threshold / certainty).clamp(max=1 - 1e-6))
        per_class = FOUND // len(config.classes)
        for heat, bias in zip(maps["heatmap"][0].flatten(1), head.heatmap[-1].bias, strict=True):
            # Midway between the last cell that is found and the first that is not.
            bias.sub_((heat - lowest).topk(per_class + 1).values[-2:].mean())
    return detector


_TYPICAL: dict[str, tuple[float, tuple[float, ...] | None]] = {
    "reg": (0.15, (0.5, 0.5)),
    "height": (0.3, (-1.0,)),
    "dim": (0.2, (math.log(1.6), math.log(3.9), math.log(1.56))),
    "rot": (1.0, None),
    "vel": (1.0, None),
    "iou": (0.1, (0.8,)),
    "heatmap": (1.5, None),
}
"""Of each map, deviation and means."""


def _draw(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        noise = torch.randn(parameter.shape)
        if parameter.ndim == 1:
            is_scale = name == "weight"
            parameter.copy_(0.2 * noise + (1.0 if is_scale else 0.0))
            continue
        transposed = isinstance(module, nn.ConvTranspose2d)
        inputs = parameter.shape[0] if transposed else parameter[0].numel()
        convolution = isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        parameter.copy_(noise * ((2.0 if convolution else 1.0) / inputs) ** 0.5)


def _fit(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Set the statistics of a BatchNorm to those of its input."""
    values = inputs[0].transpose(0, 1).flatten(1)
    mean: Any = norm.running_mean
    variance: Any = norm.running_var
    mean.copy_(values.mean(1))
    variance.copy_(values.var(1))
