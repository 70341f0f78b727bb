"""The PyTorch model that a package was made from, as one more thing to run (needs torch to do so)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgetx.core import Feeds
from edgetx.errors import EdgetxError, PackageError, SourceError, UnavailableError

if TYPE_CHECKING:
    from edgetx.core import Reference
    from edgetx.package import Package

Run = Callable[[Feeds], dict[str, Any]]


@contextlib.contextmanager
def opened(
    package: Package, reference: Reference | None = None, *, threads: int = 0
) -> Iterator[tuple[Run | None, str | None]]:
    """The model's `run`, or None and why it cannot be had.

    Args:
        package: its source is loaded again, and has to give its first golden outputs.
        reference: the model itself, where it is at hand.
        threads: of PyTorch while it is open; 0 leaves them.

    Raises:
        PackageError: the model gives other golden outputs (another model or weights).
    """
    try:
        import torch

        from edgetx import sources
    except ImportError as error:
        yield None, f"PyTorch cannot be loaded ({error}); pip install edgetx[export] to compare with it"
        return
    manifest = package.manifest
    try:
        loaded = reference or sources.load(
            manifest.source,
            pretrained=False if manifest.weights == "random" else None,
            inputs=package.io.inputs if manifest.architecture == "generic" else (),
        )
    except (SourceError, UnavailableError) as error:
        yield None, f"the PyTorch model cannot be loaded again: {error}"
        return
    before = torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(threads)
        _check(package, loaded)
        yield (lambda feeds: _run(loaded, package, feeds)), None
    finally:
        torch.set_num_threads(before)


def _run(reference: Reference, package: Package, feeds: Feeds) -> dict[str, Any]:
    import torch

    from edgetx.capture import flatten_outputs
    from edgetx.exporters import clone, reference_mode

    tensors = [torch.from_numpy(feeds[spec.name].astype(spec.dtype)) for spec in reference.io.inputs]
    # A fresh copy each time: some models change themselves when they see another size.
    try:
        with reference_mode():
            outputs = flatten_outputs(clone(reference.module)(*tensors), reference.io)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise EdgetxError(f"the PyTorch model fails on it: {str(error).partition(chr(10))[0]}") from error
    names = [spec.name for spec in package.io.outputs]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


def _check(package: Package, reference: Reference) -> None:
    import numpy as np

    case = package.golden()[0]
    for name, output in _run(reference, package, case.inputs).items():
        golden = case.outputs[name]
        largest = max(1.0, float(np.abs(golden).max(initial=0))) if golden.size else 1.0
        if golden.shape != output.shape or not np.allclose(golden, output, rtol=0, atol=1e-4 * largest):
            raise PackageError(
                f"the model loaded from {reference.source!r} does not give the package's golden output "
                f"{name!r}: other weights or another version; export the model again"
            )
