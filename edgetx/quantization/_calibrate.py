"""The magnitude at which every activation is clipped, by onnxruntime.quantization's calibrators."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgetx.errors import InputError
from edgetx.precision._observe import open_graph
from edgetx.quantization._layers import Layer

Calibration = Literal["minmax", "percentile", "entropy"]

PERCENTILE = 99.999
"""Per cent of an activation's magnitudes that are not clipped."""
BINS = 2048
QUANTIZED_BINS = 128
"""Of a histogram, and of the 8-bit distribution that `entropy` compares it with."""
AT_ONCE = 16
"""Activations that one run hands out: each is as large as a layer's input."""

Feeds = Callable[[], Iterator[Mapping[str, Any]]]


def calibrate(
    model: ir.Model,
    layers: Sequence[Layer],
    feeds: Feeds,
    method: Calibration,
    *,
    kernels: str | None,
    progress: Callable[[str], None],
) -> dict[str, float]:
    """The largest magnitude that keeps a code of its own, by activation.

    `minmax` takes the largest that was seen, `percentile` leaves out the largest 0.001 %, `entropy` keeps the
    distribution's information (Migacz 2017, "8-bit Inference with TensorRT").

    Args:
        model: prepared; stays as it is.
        layers: whose inputs are looked at.
        feeds: gives the samples' feeds; called several times.
        method: see above.
        kernels: a library of custom operators.
        progress: called with one line per pass.

    Raises:
        InputError: an activation holds NaN or infinity.
    """
    names = list(dict.fromkeys(layer.activation for layer in layers))
    session = open_graph(_observed(model, names), kernels)
    outputs = {value.name: index for index, value in enumerate(session.get_outputs())}
    progress(f"calibrating {len(names)} activations: their largest magnitudes")
    largest = dict.fromkeys(names, 0.0)
    for name, array in _activations(session, names, outputs, feeds):
        largest[name] = max(largest[name], float(np.abs(array).max(initial=0.0)))
        if not np.isfinite(largest[name]):
            raise InputError(
                f"activation {name!r} holds NaN or infinity on the calibration data; clean the data"
            )
    if method == "minmax":
        return largest
    progress(f"calibrating {len(names)} activations: their distributions")
    collector = _collector(method, largest)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        for name, array in _activations(session, names, outputs, feeds):
            if largest[name] > 0:
                collector.collect({name: array})
        thresholds = collector.compute_collection_result()
    return {
        name: max(abs(float(thresholds[name][0])), abs(float(thresholds[name][1])))
        if name in thresholds
        else 0.0
        for name in names
    }


def _observed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    for name in names:
        if not any(output.name == name for output in model.graph.outputs):
            if values[name].producer() is None:  # a model may not hand out its input as it is
                same = ir.node("Identity", (values[name],))
                same.outputs[0].name, same.outputs[0].type = f"edgetx.{name}", values[name].type
                model.graph.append(same)
                model.graph.outputs.append(same.outputs[0])
            else:
                model.graph.outputs.append(values[name])
    return model


def _activations(
    session: Any, names: Sequence[str], outputs: Mapping[str, int], feeds: Feeds
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for feed in feeds():
        for start in range(0, len(names), AT_ONCE):
            chosen = names[start : start + AT_ONCE]
            wanted = [name if name in outputs else f"edgetx.{name}" for name in chosen]
            yield from zip(chosen, session.run(wanted, dict(feed)), strict=True)


def _collector(method: Calibration, largest: Mapping[str, float]) -> Any:
    """With bins over the whole range: it would grow them from the first sample's, however small that is."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(
        method=method,
        symmetric=True,
        num_bins=BINS,
        num_quantized_bins=QUANTIZED_BINS,
        percentile=PERCENTILE,
        scenario="same",
    )
    empty = np.zeros(0, np.float32)
    for name, limit in largest.items():
        if limit > 0:
            low = 0.0 if method == "percentile" else -limit
            counts, edges = np.histogram(empty, bins=BINS, range=(low, limit))
            edges, top = edges.astype(np.float32), np.float32(limit)
            seen = (counts, edges, np.float32(-top), top)
            collector.histogram_dict[name] = seen if method == "percentile" else (*seen, top)
    return collector
