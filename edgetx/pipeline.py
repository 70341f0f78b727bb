"""The whole line: SOURCE, Reference, Package, Verdict, BenchReport. The export side of the Python API."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx import ops
from edgetx import package as packages
from edgetx.core import Architecture, IOSpec, Processor, Reference, Stage, Target, TensorSpec, Verdict
from edgetx.errors import BenchmarkError, ExportError, InputError, UnavailableError, VerificationError
from edgetx.ops import Variant as Bodies
from edgetx.package import Case, IOEntry, Manifest, Package, StageEntry
from edgetx.verification import verify

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgetx.benchmark import BenchReport

Progress = Callable[[str], None]


def _silent(_message: str) -> None:
    pass


def load_reference(
    source: str | torch.nn.Module,
    example_inputs: Any = None,
    *,
    pretrained: bool | None = None,
    model: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    images: Sequence[str | Path] = (),
) -> Reference:
    """Turn a SOURCE string or a module in memory into a Reference (see `edgetx.sources`)."""
    paths = [Path(image) for image in images]
    for path in paths:  # before the libraries and the model are loaded, which takes a while
        if not path.exists():
            raise InputError(f"image {path} does not exist; give the path of an image file")
    try:
        from edgetx import sources
    except ImportError as error:
        raise UnavailableError(
            f"exporting needs PyTorch and the ONNX tools ({error}); pip install edgetx[export,ort]"
        ) from error
    if isinstance(source, str):
        if example_inputs is not None:
            raise ExportError(
                "example_inputs go with a module in memory; a SOURCE string takes inputs=[TensorSpec...]"
            )
        return sources.load(source, pretrained=pretrained, model=model, inputs=inputs, images=paths)
    return sources.from_module(source, example_inputs, inputs=inputs, images=paths)


def export(
    source: str | torch.nn.Module,
    example_inputs: Any = None,
    *,
    output: str | Path | None = None,
    pretrained: bool | None = None,
    model: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    images: Sequence[str | Path] = (),
    bodies: Bodies = "attention",
    split: bool = False,
    force: bool = False,
    progress: Progress = _silent,
) -> Package:
    """Export a model to a package, verify it against PyTorch on real inputs, and only then put it in place.

    Args:
        source: a SOURCE string (`timm:NAME`, `hf:ID`, a checkpoint, `module:function`, a bare known name) or
            any `nn.Module`, which is left as it was.
        example_inputs: for a module in memory, a tensor, a tuple of tensors in positional order or a mapping
            from name to tensor; not needed where an exporter knows the model's inputs.
        output: the package's folder; by default `<name>.edgetx` in the current directory.
        pretrained: fetch the library's trained weights (the default), or draw random ones.
        model: SOURCE of the model that a bare checkpoint's weights belong to.
        inputs: names, dtypes and shapes for a model that no exporter recognises.
        images: photographs to verify with instead of the built-in ones.
        bodies: which standard ONNX operators stand behind each edgetx operator, for engines without ours:
            `attention` (opset 23) or `primitive` (opset 20).
        split: also write the model's stages, each to a file of its own, and verify them as a chain.
        force: replace an existing package.
        progress: called with one line per step.

    Returns:
        The verified package.

    Raises:
        SourceError: the model cannot be loaded.
        ExportError: it cannot be traced or written as ONNX, or has no stages to split it into.
        VerificationError: the package's outputs differ from PyTorch's; nothing is written.
        PackageError: the output folder cannot be written, or exists and `force` is not given.
    """
    _check_output(output, force)
    progress("loading the model")
    reference = load_reference(
        source, example_inputs, pretrained=pretrained, model=model, inputs=inputs, images=images
    )
    return export_reference(
        reference, output=output, bodies=bodies, split=split, force=force, progress=progress
    )


def _check_output(output: str | Path | None, force: bool) -> None:
    """Refuse a folder that may not be replaced before the model is loaded."""
    if output is not None:
        packages.create(output, force=force).check()


def presets_of(name: str) -> tuple[str, ...]:
    """The presets of our own models that a name stands for: itself, or those of the architecture of that id.

    Raises:
        InputError: there is none of that name.
        UnavailableError: PyTorch is not installed.
    """
    owners = _own_presets()
    if name in owners:
        return (name,)
    found = tuple(preset for preset, owner in owners.items() if owner.id == name)
    if not found:
        raise InputError(f"unknown architecture {name!r}; known: {', '.join(owners)}")
    return found


def processor_of(preset: str) -> tuple[Processor, IOSpec]:
    """The processor and the inputs of a preset of our own models, such as `flatformer_kitti`.

    Raises:
        InputError: an unknown name, or a model that reads no files.
        UnavailableError: PyTorch is not installed.
    """
    owners = _own_presets()
    if preset not in owners:
        raise InputError(f"unknown preset {preset!r}; known: {', '.join(owners)}")
    owner = owners[preset]
    place, _, function = owner.presets[preset].partition(":")
    module = getattr(import_module(place), function)()
    processor = owner.processor(module)
    if processor is None:
        raise InputError(f"{preset} has no processor, so it reads no files; give a package that has one")
    return processor, owner.describe(module)


def _own_presets() -> dict[str, Architecture]:
    try:
        from edgetx import exporters
    except ImportError as error:
        raise UnavailableError(
            f"a preset's settings need PyTorch ({error}); pip install edgetx[export], or give a package"
        ) from error
    return {
        preset: each
        for each in exporters.architectures()
        for preset, source in each.presets.items()
        if source.startswith("edgetx.exporters.")
    }


def export_reference(
    reference: Reference,
    *,
    output: str | Path | None = None,
    bodies: Bodies = "attention",
    split: bool = False,
    force: bool = False,
    progress: Progress = _silent,
) -> Package:
    """`export` for a Reference that is loaded already.

    A restoration model that no exporter knows and that PyTorch cannot trace at any size is exported at one
    size instead, which tiles fill; a note says so.
    """
    from edgetx import sources

    folder = Path(output) if output is not None else Path(f"{reference.name}.edgetx")
    try:
        return _export(reference, folder, bodies=bodies, split=split, force=force, progress=progress)
    except (ExportError, VerificationError) as error:
        fixed = sources.at_fixed_size(reference, str(error))
        if fixed is None:
            raise
    progress("exporting at one size, for tiles")
    return _export(fixed, folder, bodies=bodies, split=split, force=force, progress=progress)


def _export(
    reference: Reference, folder: Path, *, bodies: Bodies, split: bool, force: bool, progress: Progress
) -> Package:
    from edgetx import capture, exporters

    architecture = exporters.get(reference.architecture)
    samples, notes = architecture.golden(reference.module, reference.samples)
    reference = dataclasses.replace(reference, samples=samples, notes=[*reference.notes, *notes])
    rewrite = architecture.rewrite(reference.module)
    stages = _stages(architecture, rewrite.module) if split else ()
    with packages.create(folder, force=force) as draft:
        progress("running the PyTorch model on the golden inputs")
        cases = _golden(reference)
        progress("tracing and translating to ONNX")
        onnx_model = capture.capture(reference, rewrite.module, bodies=bodies)
        capture.save(onnx_model, draft.path / "model.onnx")
        draft.save_golden(cases)
        entries = _write_stages(reference, stages, draft.path, bodies=bodies, progress=progress)
        counts = _operators(onnx_model)
        manifest = Manifest.describe(
            reference,
            operators=counts,
            replaced=rewrite.replaced,
            bodies=bodies if counts else "none",
            stages=entries,
            opset=onnx_model.opset_imports[""],
            notes=rewrite.notes,
        )
        progress("verifying against PyTorch")
        candidate = draft.seal(manifest)
        verdict = verify(candidate)
        if not verdict.passed:
            raise VerificationError(f"{reference.name}: {failure(verdict)}; nothing was written to {folder}")
        chain = verify(candidate, stages=True) if stages else None
        if chain is not None and not chain.passed:
            raise VerificationError(
                f"{reference.name}: {failure(chain)}, run stage by stage; nothing was written to {folder}"
            )
        draft.seal(manifest.with_verdict(verdict, stages=chain))
        return draft.publish()


def _stages(architecture: Architecture, module: torch.nn.Module) -> Sequence[Stage]:
    stages = architecture.stages(module)
    if not stages:
        from edgetx import exporters

        able = [each.id for each in exporters.architectures() if type(each).stages is not Architecture.stages]
        raise ExportError(
            f"{architecture.id} has no stages, so there is nothing to split; architectures with stages: "
            f"{', '.join(able) or 'none'}; export without --split"
        )
    return stages


def _write_stages(
    reference: Reference, stages: Sequence[Stage], folder: Path, *, bodies: Bodies, progress: Progress
) -> list[StageEntry]:
    """Write `stages/<name>.onnx` for each; the sample of one is what those before it make of the model's."""
    import torch

    from edgetx import capture

    if stages:
        (folder / "stages").mkdir()
    values = dict(reference.samples[0])
    entries = []
    for stage in stages:
        progress(f"tracing and translating the stage {stage.name}")
        sample = {spec.name: values[spec.name] for spec in stage.io.inputs}
        part = dataclasses.replace(
            reference,
            module=stage.module,
            io=stage.io,
            samples=[sample],
            name=f"{reference.name}.{stage.name}",
        )
        with torch.inference_mode():
            outputs = capture.flatten_outputs(stage.module(*map(torch.from_numpy, sample.values())), stage.io)
        values |= {spec.name: out.numpy() for spec, out in zip(stage.io.outputs, outputs, strict=True)}
        model = capture.capture(part, stage.module, bodies=bodies)
        file = f"stages/{stage.name}.onnx"
        capture.save(model, folder / file)
        entries.append(
            StageEntry(name=stage.name, file=file, io=IOEntry.of(stage.io), operators=_operators(model))
        )
    return entries


def _operators(model: ir.Model) -> dict[str, int]:
    """How many nodes of each edgetx operator there are; those that do not occur are left out."""
    counts = {operator.name: len(operator.nodes(model)) for operator in ops.OPERATORS}
    return {name: count for name, count in counts.items() if count}


def failure(verdict: Verdict) -> str:
    """One line that says what failed."""
    if verdict.error is not None:
        return verdict.error if verdict.outputs else f"the package does not run: {verdict.error}"
    worst = max(
        (output for output in verdict.outputs if not output.passed), key=lambda output: output.max_abs
    )
    return (
        f"output {worst.name!r} differs from PyTorch by {worst.max_abs:.2e}, "
        f"accepted is {worst.tolerance:.2e} (edgetx verify --per-module shows where it begins)"
    )


@dataclass(frozen=True)
class Deployment:
    """What `deploy` found out: the package, its verdict on the chosen runtime, timings and predictions."""

    package: Package
    verdict: Verdict
    report: BenchReport
    predictions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def deploy(
    source: str,
    *,
    output: str | Path | None = None,
    runtime: str | None = None,
    images: Sequence[str | Path] = (),
    threads: int = 0,
    baseline: bool = True,
    pretrained: bool | None = None,
    model: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    bodies: Bodies = "attention",
    force: bool = False,
    seconds: float = 5.0,
    progress: Progress = _silent,
) -> Deployment:
    """Export, verify, benchmark and try a model: the whole line, one call.

    Args:
        runtime: runtime id; by default the first that can run the package here.
        threads: worker threads of every engine; 0 takes the machine's cores.
        baseline: also export the model with PyTorch's exporter alone and time it beside ours.
        seconds: measuring time per engine.

    The other arguments and the errors are those of `export`.
    """
    from edgetx import benchmark, capture
    from edgetx.runtimes import load

    _check_output(output, force)
    progress("loading the model")
    reference = load_reference(source, pretrained=pretrained, model=model, inputs=inputs, images=images)
    package = export_reference(reference, output=output, bodies=bodies, force=force, progress=progress)
    target = Target(threads=threads)
    notes = list(reference.notes)
    progress("verifying on the runtime")
    verdict = verify(package, runtime=runtime, target=target)
    with tempfile.TemporaryDirectory(prefix="edgetx-") as folder:
        stock: Path | None = None
        if baseline:
            progress("exporting the stock baseline")
            stock = Path(folder) / "stock.onnx"
            reason = capture.export_stock(reference, stock)
            if reason is not None:
                notes.append(f"no stock baseline: PyTorch's exporter fails on this model ({reason})")
                stock = None
        report = benchmark.bench(
            package, runtime=runtime, target=target, baseline=stock, seconds=seconds, progress=progress
        )
        if report.engines[0].kind != "package":
            raise BenchmarkError(report.failures[0].error)
        notes += [f"not measured: {failure.error}" for failure in report.failures]
    predictions: dict[str, Any] = {}
    if images:
        progress("running the images")
        with load(package, runtime=runtime, target=target) as session:
            for image in images:
                predictions[str(image)] = predict(session, image)
    return Deployment(package, verdict, report, predictions, tuple(notes))


def predict(session: Any, path: str | Path) -> Any:
    """Run one input file through an opened package with the package's own processor."""
    processor = session.processor
    if processor is None:
        raise InputError(f"the package has no processor for {path}; feed tensors: edgetx run PKG inputs.npz")
    return processor.postprocess(session.run(processor.preprocess(str(path), session.io)))


def _golden(reference: Reference) -> list[Case]:
    import torch

    from edgetx.capture import flatten_outputs
    from edgetx.exporters import clone, reference_mode

    cases = []
    for sample in reference.samples:
        tensors = [torch.from_numpy(sample[spec.name]) for spec in reference.io.inputs]
        try:
            with reference_mode():
                # A fresh copy each time: transformers' Swin changes itself when it sees another size.
                outputs = flatten_outputs(clone(reference.module)(*tensors), reference.io)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            shapes = ", ".join(f"{spec.name}={list(sample[spec.name].shape)}" for spec in reference.io.inputs)
            raise ExportError(
                f"{reference.name} fails in PyTorch itself on {shapes}: {str(error).partition(chr(10))[0]}; "
                "where a dimension cannot vary, give it as a number (--input name=dtype[dim,...])"
            ) from error
        cases.append(
            Case(
                inputs=dict(sample),
                outputs={
                    spec.name: tensor.numpy()
                    for spec, tensor in zip(reference.io.outputs, outputs, strict=True)
                },
            )
        )
    return cases
