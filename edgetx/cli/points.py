"""Sweeps through a detection package: which files, where to, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from edgetx.cli.console import emit_json, place, quiet_stdout, say, show, show_table
from edgetx.cli.files import find
from edgetx.core import Target
from edgetx.errors import EdgetxError, InputError

if TYPE_CHECKING:
    from edgetx.detection import Sweep
    from edgetx.package import Package
    from edgetx.points import Calibration

MOST_ROWS = 20
"""Detections that the table of a sweep shows."""
UNITS = {
    "center": "m, x forward, y left, z up from the sensor; of the box's centre",
    "size": "m, length along the heading, width, height",
    "yaw": "rad, counter-clockwise from x",
    "velocity": "m/s, vx, vy",
}
_FORMATS = {"json": ".json", "kitti": ".txt", "nuscenes": ".nuscenes.json"}


class Color(str, Enum):
    """What colours points."""

    height = "height"
    intensity = "intensity"


class Division(str, Enum):
    """How a network divides pillars."""

    windows = "windows"
    groups = "groups"


@dataclass(frozen=True)
class Settings:
    """The options of `run` that are for sweeps."""

    formats: str | None
    bev: Path | None
    viewer: Path | None
    show: list[Division] | None
    color: Color
    score_threshold: float | None
    all_points: bool
    calib: Path | None

    @property
    def given(self) -> bool:
        """Whether any of them was used."""
        paths = (self.bev, self.viewer, self.calib)
        rest = (self.formats, self.show, self.all_points, self.color is not Color.height)
        return any(each is not None for each in (*paths, self.score_threshold)) or any(rest)


def _record(file: Path, sweep: Sweep, package: Package) -> dict[str, Any]:
    """As the JSON format writes it."""
    manifest = package.manifest
    return {
        "input": str(file),
        "package": {
            "name": manifest.name,
            "architecture": manifest.architecture,
            "source": manifest.source,
            "weights": manifest.weights,
            "edgetx_version": manifest.edgetx_version,
        },
        "counts": {
            "read": sweep.cloud.read,
            "dropped_not_finite": sweep.cloud.dropped_nonfinite,
            "dropped_out_of_range": sweep.cloud.dropped_outside,
            **sweep.counts,
        },
        "profile": sweep.profile,
        "notes": sweep.notes,
        "seconds": dict(sweep.seconds),
        "units": UNITS,
        "detections": sweep.detections,
    }


def run(
    package: Path,
    inputs: list[str],
    output: Path | None,
    settings: Settings,
    *,
    runtime: str | None,
    target: Target,
    force: bool,
    json: bool,
) -> None:
    """Find boxes in every sweep; what fails on the way is named and the rest is done, with exit code 1.

    Raises:
        InputError: no sweeps, options or names that clash, an output that exists, or the only sweep fails.
    """
    import edgetx
    from edgetx.detection import detect
    from edgetx.package import Package
    from edgetx.points import READABLE

    files, several = find(inputs, READABLE, "sweeps")
    formats = _formats(settings.formats, output)
    if "kitti" in formats and settings.calib is None:
        raise InputError(
            "KITTI labels are in the camera's frame, so --format kitti needs --calib FILE, KITTI's "
            "calibration of the sweep; json and nuscenes do not"
        )
    if settings.show and settings.viewer is None:
        raise InputError("--show colours the points of the 3D page; add --viewer FILE.html")
    targets = _targets(files, several, output, formats, settings, force)
    opened = Package.open(package)
    rows: list[dict[str, Any]] = []
    failures: list[tuple[Path, str]] = []
    with quiet_stdout():
        session = edgetx.load(opened, runtime=runtime, target=target)
    with session:
        for file in files:
            try:
                with quiet_stdout():
                    sweep = detect(
                        session,
                        file,
                        profiles=opened.profiles,
                        all_points=settings.all_points,
                        score_threshold=settings.score_threshold,
                    )
                    record = _record(file, sweep, opened)
                    _write(opened, file, sweep, record, targets[file], settings, force)
            except EdgetxError as error:
                if not several:
                    raise
                failures.append((file, str(error)))
                say(f"error: {error}" if str(file) in str(error) else f"error: {file}: {error}")
                continue
            rows.append({**record, "outputs": {kind: str(path) for kind, path in targets[file].items()}})
            if not json:
                _show(file, sweep, targets[file])
        ran_on = session.describe()
    if json:
        emit_json(rows + [{"input": file, "error": text} for file, text in failures])
    else:
        show(f"on {place(ran_on)}")
    if failures:
        raise typer.Exit(1)


def _formats(text: str | None, output: Path | None) -> list[str]:
    if text is None:
        return [] if output is None else ["json"]
    formats = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [each for each in formats if each not in _FORMATS]:
        raise InputError(f"--format {unknown[0]!r} is none of {', '.join(_FORMATS)}")
    if output is None:
        raise InputError(f"--format {text} writes files; say where with -o FILE or -o DIR")
    return formats


def _targets(
    files: list[Path],
    several: bool,
    output: Path | None,
    formats: list[str],
    settings: Settings,
    force: bool,
) -> dict[Path, dict[str, Path]]:
    """Input -> what is written -> file; checked before the first sweep is read."""
    wanted = {kind: (output, _FORMATS[kind]) for kind in formats}
    wanted |= {"bev": (settings.bev, ".png"), "viewer": (settings.viewer, ".html")}
    targets: dict[Path, dict[str, Path]] = {file: {} for file in files}
    taken: dict[Path, Path] = {}
    for kind, (place_, suffix) in wanted.items():
        if place_ is None:
            continue
        is_file = bool(place_.suffix) and not place_.is_dir() and not (kind in _FORMATS and len(formats) > 1)
        if several and place_.is_file():
            raise InputError(f"{place_} is a file, and {len(files)} sweeps need a folder; give a folder")
        ending = f".{suffix.rpartition('.')[2]}"
        if is_file and not several and place_.suffix.lower() != ending:
            raise InputError(f"{place_}: {kind} is written to a {ending} file; give such a name, or a folder")
        for file in files:
            path = place_ if is_file and not several else place_ / f"{file.stem}{suffix}"
            if (other := taken.setdefault(path, file)) != file:
                raise InputError(f"{other} and {file} would both become {path}; run them apart")
            if path.exists() and file.exists() and path.samefile(file):
                raise InputError(f"{path} is the input itself; choose another name")
            if path.exists() and not force:
                raise InputError(f"{path} exists; choose another name, or --force to replace it")
            targets[file][kind] = path
    return targets


def _write(
    package: Package,
    file: Path,
    sweep: Sweep,
    record: Mapping[str, Any],
    targets: Mapping[str, Path],
    settings: Settings,
    force: bool,
) -> None:
    """Write what was asked for; all of it is made before the first file is written."""
    from edgetx import points
    from edgetx.detection import processor_of
    from edgetx.files import write_text
    from edgetx.images import write_picture

    processor = processor_of(package)
    facts = [sweep.summary, *sweep.notes]
    texts: dict[str, str] = {}
    if "json" in targets:
        texts["json"] = _json(record)
    if "kitti" in targets:
        texts["kitti"] = points.to_kitti(sweep.detections, _calibration(settings.calib, file))
    if "nuscenes" in targets:
        texts["nuscenes"] = _json(points.to_nuscenes(sweep.detections, file.stem))
    if "viewer" in targets:
        divisions = [each.value for each in settings.show or ()]
        partitions = processor.partitions(sweep.cloud.points, divisions) if divisions else None
        first = next(iter(partitions[1])) if partitions is not None else settings.color.value
        texts["viewer"] = points.viewer(
            sweep.cloud.points,
            sweep.detections,
            classes=processor.classes,
            title=file.name,
            facts=facts,
            color=first,
            partitions=partitions,
        )
    picture = None
    if "bev" in targets:
        picture = points.birds_eye(
            sweep.cloud.points,
            sweep.detections,
            classes=processor.classes,
            point_range=processor.point_range,
            color=settings.color.value,
            title=file.name,
        )
    for kind, text in texts.items():
        write_text(targets[kind], text, force=force)
    if picture is not None:
        write_picture(picture, targets["bev"], force=force)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _calibration(path: Path | None, file: Path) -> Calibration:
    """From a file, or from a folder that has one for each sweep, as KITTI's `calib` does."""
    from edgetx.points import Calibration

    assert path is not None
    return Calibration.read(path / f"{file.stem}.txt" if path.is_dir() else path)


def _show(file: Path, sweep: Sweep, targets: Mapping[str, Path]) -> None:
    spent = ", ".join(f"{step} in {seconds:.3f} s" for step, seconds in sweep.seconds.items())
    show(f"{file}: {sweep.summary}; {spent}")
    for note in sweep.notes:
        show(f"note: {note}")
    if sweep.detections:
        velocity = "velocity" in sweep.detections[0]
        header = ["label", "score", "x, y, z (m)", "length, width, height (m)", "yaw (rad)"]
        rows = [
            [
                each["label"],
                f"{each['score']:.3f}",
                _row(each["center"]),
                _row(each["size"]),
                f"{each['yaw']:.2f}",
                *([_row(each["velocity"])] if velocity else []),
            ]
            for each in sweep.detections[:MOST_ROWS]
        ]
        show_table([*header, *(["vx, vy (m/s)"] if velocity else [])], rows)
    total = len(sweep.detections)
    rest = f", the best {MOST_ROWS} are shown; -o or --json has all" if total > MOST_ROWS else ""
    show(f"{_detections(total)}{rest}")
    for path in targets.values():
        show(f"wrote {path}")


def _detections(number: int) -> str:
    return f"{number} detection{'' if number == 1 else 's'}"


def _row(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)
