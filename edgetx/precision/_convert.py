"""`convert`: observe, plan, write, verify, and only then put the package in place."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetx import __version__
from edgetx import package as packages
from edgetx.core import Verdict
from edgetx.errors import InputError, PackageError, UnavailableError, VerificationError
from edgetx.ops import library
from edgetx.package import MODEL, ConversionEntry, KeptEntry, Package, RangeOfModule, VerdictEntry
from edgetx.pipeline import failure
from edgetx.runtimes import load
from edgetx.verification import Sets, compare, images_of, tolerance_of, verify

if TYPE_CHECKING:
    import onnx_ir as ir

PRECISIONS = ("float16",)
"""What `convert` makes."""

EXTERNAL_DATA_BYTES = 64 * 2**20
"""As in `edgetx.capture`: models whose weights are larger keep them beside the graph."""

MODULES = 16
"""How many modules the table of a manifest has: those that come closest to overflowing."""

Feed = Mapping[str, Any]


def _silent(_message: str) -> None:
    pass


def convert(
    package: Package | str | Path,
    *,
    precision: str = "float16",
    output: str | Path | None = None,
    force: bool = False,
    progress: Callable[[str], None] = _silent,
) -> Package:
    """Make a package that computes in half precision, verified against PyTorch's float32 outputs.

    Inputs and outputs stay float32. What overflows, nearly does or loses too much on the golden inputs stays
    float32, as do positions and counts; the manifest's `conversion` lists it, and how far every module is
    from overflowing. Stages are converted too. No torch is needed.

    Args:
        package: a float32 Package or its folder; it stays as it is.
        precision: `float16`.
        output: the new package's folder; by default the old one's name with `.float16` before its suffix,
            beside it.
        force: replace an existing package.
        progress: called with one line per step.

    Returns:
        The verified package.

    Raises:
        InputError: an unknown precision, or `output` is the package itself.
        PackageError: the package is not float32, has no golden cases or NaN in them, or `output` cannot be
            written or exists and `force` is not given.
        VerificationError: the outputs differ from PyTorch's, or are NaN or infinite; nothing is written.
        UnavailableError: onnx_ir or ONNX Runtime is not installed.
    """
    if precision not in PRECISIONS:
        why = (
            "; ONNX Runtime has too few bfloat16 kernels on the CPU to verify such a package here"
            if precision == "bfloat16"
            else ""
        )
        raise InputError(f"unknown precision {precision!r}; accepted: {', '.join(PRECISIONS)}{why}")
    try:
        from edgetx.precision import _graph  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"converting a package needs onnx_ir and onnx ({error}); pip install edgetx[export,ort]"
        ) from error
    opened = package if isinstance(package, Package) else Package.open(package)
    folder = Path(output) if output is not None else beside(opened.path, precision)
    _check(opened, folder)
    cases = opened.golden()
    inputs = [case.inputs for case in cases]
    check_finite(opened, cases)
    with packages.create(folder, force=force) as draft:
        parts = [_convert_graph(opened, inputs, draft.path, progress)]
        if opened.stages:
            (draft.path / "stages").mkdir()
        feeds = [dict(feed) for feed in inputs]
        for name in opened.stages:
            stage = opened.stage(name)
            taken = [{spec.name: feed[spec.name] for spec in stage.io.inputs} for feed in feeds]
            parts.append(_convert_graph(stage, taken, draft.path, progress))
            with load(stage) as session:
                for feed, given in zip(feeds, taken, strict=True):
                    feed |= session.run(given)
        draft.save_golden(cases)
        progress("verifying against PyTorch")
        manifest = msgspec.structs.replace(
            opened.manifest,
            precision=precision,
            edgetx_version=__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            conversion=None,
            verdict=None,
            stages_verdict=None,
        )
        candidate = draft.seal(manifest)
        verdict = verify(candidate)
        chain = verify(candidate, stages=True) if opened.stages else None
        rounded = _judge(candidate, cases, parts[0].rounded)
        for what, each in (
            ("", verdict),
            (", run stage by stage", chain),
            (", rounded at every value", rounded),
        ):
            if each is not None and not each.passed:
                raise VerificationError(_why_failed(opened, each, what, parts[0].modules, folder))
        manifest = msgspec.structs.replace(manifest, conversion=_entry(opened, parts, rounded)).with_verdict(
            verdict, stages=chain
        )
        draft.seal(manifest)
        return draft.publish()


@dataclass(frozen=True)
class _Part:
    """A converted graph: the model or a stage."""

    modules: list[RangeOfModule]
    kept: list[KeptEntry]
    half: int
    rounded: list[dict[str, Any]]


def beside(path: Path, precision: str) -> Path:
    """The default place of a package made of another one: NAME.PRECISION.edgetx."""
    return path.with_name(f"{path.stem}.{precision}{path.suffix or '.edgetx'}")


def _check(package: Package, folder: Path) -> None:
    if package.manifest.precision != "float32":
        raise PackageError(
            f"package {package.path} computes in {package.manifest.precision} already; give the float32 "
            "package that it was made from"
        )
    if folder.resolve() == package.path.resolve():
        raise InputError(f"{folder} is the package to convert, which stays; choose another output folder")


def check_finite(package: Package, cases: Sequence[packages.Case]) -> None:
    """See that golden cases can judge.

    Raises:
        PackageError: NaN among them; names the tensor.
    """
    import numpy as np

    for index, case in enumerate(cases):
        for side, tensors in (("input", case.inputs), ("output", case.outputs)):
            for name, array in tensors.items():
                if array.dtype.kind == "f" and np.isnan(array).any():
                    raise PackageError(
                        f"package {package.path}: golden {side} {name!r} of case {index} holds NaN, so "
                        "nothing can be judged by it; export the model again with other inputs"
                    )


def _convert_graph(
    package: Package, feeds: Sequence[Feed], folder: Path, progress: Callable[[str], None]
) -> _Part:
    """Write the float16 graph of a package or stage to the same place below `folder`."""
    import onnx_ir as ir

    from edgetx.precision import _graph, _observe, _plan, _table

    model = ir.load(package.model_path)
    ir.external_data.load_to_model(model)  # what stays float32 would else point to the other package's file
    _graph.prepare(model)
    ranges = _observe.observe(model, feeds, progress=progress)
    plan = _plan.plan(model, ranges)
    variant = package.manifest.bodies
    bodies = None if variant == "none" else variant
    progress("writing the float16 graph")
    save(_graph.to_half(model, plan, bodies), folder / package.graph)
    outputs: list[dict[str, Any]] = []
    if package.graph == MODEL:
        progress("running it with every value rounded")
        twin = _graph.rounded(model, plan, bodies)
        outputs = _observe.run(twin, feeds, kernels=library.path() if package.manifest.operators else None)
    return _Part(
        modules=_table.modules(model.graph, ranges),
        kept=_table.kept(model.graph, plan),
        half=sum(node.name in plan.half for node in _plan.floats(model.graph)),
        rounded=outputs,
    )


def save(model: ir.Model, path: Path) -> None:
    """Write a graph; large weights go to a file beside it."""
    import onnx_ir as ir

    constants = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in constants if tensor is not None) > EXTERNAL_DATA_BYTES:
        ir.save(model, path, external_data=path.name + ".data", size_threshold_bytes=1024)
    else:
        ir.save(model, path)


def _judge(package: Package, cases: Sequence[packages.Case], outputs: Sequence[Feed]) -> Verdict:
    return compare(
        [case.outputs for case in cases],
        outputs,
        tolerance=tolerance_of(package),
        ran_on={"runtime": "ort", "engine": "float32 kernels, every float16 value rounded"},
        images=images_of(package),
        sets=package.processor if isinstance(package.processor, Sets) else None,
    )


def _why_failed(
    package: Package, verdict: Verdict, what: str, modules: Sequence[RangeOfModule], folder: Path
) -> str:
    worst = ", ".join(
        f"{each.module or 'the model'} (up to {float(each.largest):.3g})" for each in modules[:3]
    )
    reason = failure(verdict).partition(" (edgetx verify")[0]
    return (
        f"{package.name} in float16{what}: {reason}; nothing was written to {folder}; nearest to "
        f"overflowing: {worst or 'none'}; keep the float32 package"
    )


def _entry(package: Package, parts: Sequence[_Part], rounded: Verdict) -> ConversionEntry:
    from edgetx.precision import _plan

    whole = parts[0]
    return ConversionEntry(
        parent=package.name,
        parent_sha256=package.manifest.files[MODEL].sha256,
        safety=_plan.SAFETY,
        half=whole.half,
        modules=tuple(whole.modules[:MODULES]),
        kept=tuple(whole.kept),
        rounded=VerdictEntry.of(rounded),
    )
