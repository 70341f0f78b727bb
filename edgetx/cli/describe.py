"""`inspect`, `list` and `doctor`: what a file holds, what edgetx knows, what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import emit_json, quiet_stdout, show, show_facts, show_table
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.core import IOSpec
    from edgetx.profiles import Profile


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PKG|ONNX", help="A package folder or an ONNX file.")],
    json: options.Json = False,
) -> None:
    """Show what a package or an ONNX file holds."""
    if path.is_file():
        from edgetx.inspection import describe_onnx

        with quiet_stdout():
            facts = describe_onnx(path)
        if json:
            emit_json(facts)
        else:
            _show_onnx(facts)
        return
    if not path.exists():
        raise InputError(f"{path} does not exist; give a package folder or an ONNX file")
    _inspect_package(path, json)


def _inspect_package(path: Path, json: bool) -> None:
    from edgetx.benchmark.report import size
    from edgetx.cli.convert import facts, show_conversion
    from edgetx.cli.make import parity
    from edgetx.cli.quantize import facts as quantization_facts
    from edgetx.cli.quantize import show_layers
    from edgetx.package import Package

    package = Package.open(path)
    manifest = package.manifest
    if json:
        emit_json({"package": package.path, "manifest": manifest})
        return
    io = package.io
    rows = [
        ("package", str(package.path)),
        ("model", manifest.name),
        ("source", manifest.source),
        ("architecture", manifest.architecture),
        ("weights", manifest.weights),
        *[("input", str(spec)) for spec in io.inputs],
        *[("output", str(spec)) for spec in io.outputs],
        *[(f"size of {name}", str(allowed)) for name, allowed in io.symbols.items()],
        ("precision", manifest.precision),
        ("opset", str(manifest.opset)),
        (
            "operators",
            ", ".join(f"{count} {name}" for name, count in manifest.operators.items()) or "standard only",
        ),
        ("bodies", manifest.bodies),
        ("processor", "none" if manifest.processor is None else str(manifest.processor["kind"])),
        *[(f"stage {stage.name}", _stage(stage.io.to_core())) for stage in manifest.stages],
        *[
            (f"profile {number}", _profile(profile))
            for number, profile in enumerate(package.profiles, start=1)
        ],
        ("parity at export", "not recorded" if package.verdict is None else parity(package.verdict)),
        *(
            []
            if manifest.stages_verdict is None
            else [("parity of stages", parity(manifest.stages_verdict.to_core()))]
        ),
        *([] if manifest.conversion is None else facts(manifest.conversion)),
        *([] if manifest.quantization is None else quantization_facts(manifest.quantization)),
        *[(f"file {name}", size(entry.size)) for name, entry in manifest.files.items()],
        ("written by", f"edgetx {manifest.edgetx_version}, {manifest.created}"),
        *[("note", note) for note in manifest.notes],
    ]
    show_facts(rows)
    if manifest.conversion is not None:
        show_conversion(manifest.conversion)
    if manifest.quantization is not None:
        show_layers(manifest.quantization)


def _stage(io: IOSpec) -> str:
    return f"{', '.join(map(str, io.inputs))} -> {', '.join(map(str, io.outputs))}"


def _profile(profile: Profile) -> str:
    ranges = "; ".join(f"{symbol} {each}" for symbol, each in profile.ranges.items())
    return f"{ranges}; holds {profile.share:.1%} of the sweeps it was made from"


def _show_onnx(facts: dict[str, Any]) -> None:
    from edgetx.benchmark.report import size

    show_facts(
        [
            ("file", facts["file"]),
            ("size", f"{size(facts['bytes'])}, external data {size(facts['external_bytes'])}"),
            ("written by", facts["producer"] or "not recorded"),
            ("opsets", ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items())),
            *[("input", text) for text in facts["inputs"]],
            *[("output", text) for text in facts["outputs"]],
            (
                "custom operators",
                ", ".join(f"{n} {op}" for op, n in facts["custom_operators"].items()) or "none",
            ),
            ("functions", "\n".join(facts["functions"]) or "none"),
        ]
    )
    show_table(["operator", "nodes"], [[name, str(count)] for name, count in facts["operators"].items()])


def list_(json: options.Json = False) -> None:
    """List architectures, runtimes and operators, each with why it is not available here."""
    from edgetx import doctor

    with quiet_stdout():
        catalogue = doctor.catalogue()
    if json:
        emit_json(catalogue)
        return
    show_table(
        ["architecture", "", "names", "here"],
        [
            [entry["id"], entry["title"], ", ".join(entry["presets"]), entry["why_not"] or "available"]
            for entry in catalogue["architectures"]
        ],
    )
    show_table(
        ["runtime", "", "version", "here"],
        [
            [entry["id"], entry["title"], entry["version"] or "", entry["why_not"] or "available"]
            for entry in catalogue["runtimes"]
        ],
    )
    show_table(
        ["operator", "", "here"],
        [
            [entry["name"], entry["summary"], entry["why_not"] or "available"]
            for entry in catalogue["operators"]
        ],
    )


def doctor(json: options.Json = False) -> None:
    """Show what this machine has, what is missing and how to get it; exit code 1 if no runtime works."""
    from edgetx import doctor as doctors

    with quiet_stdout():
        diagnosis = doctors.examine()
    if json:
        emit_json(diagnosis)
    else:
        show_facts(doctors.facts(diagnosis), title="this machine")
        show_table(
            ["part", "version", "for", "how to get it"],
            [
                [part.name, part.version or "missing", part.purpose, "" if part.version else part.remedy]
                for part in diagnosis.parts
            ],
        )
        for problem in diagnosis.problems:
            show(f"missing: {problem}")
        show("edgetx can run packages here" if diagnosis.can_run else "edgetx cannot run packages here")
    if not diagnosis.can_run:
        raise typer.Exit(1)
