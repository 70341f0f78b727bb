"""Sweeps in, boxes out: detectors on point clouds."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from edgetx.core import IOSpec
from edgetx.errors import InputError
from edgetx.points.cloud import Cloud
from edgetx.points.grid import Grid, groups, windows
from edgetx.points.reading import read_points
from edgetx.processors._settings import is_number, pick_input, settings

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

logger = logging.getLogger(__name__)

BOXES, SCORES, LABELS = "boxes", "scores", "labels"


class PointCloudDetection(msgspec.Struct, frozen=True):
    """A sweep -> `points` float32 `[points, columns]`; `boxes`, `scores` and `labels` -> detections.

    Attributes:
        columns: of a point: 4 (x, y, z in m, intensity) or 5, with one more that the model was trained on.
        point_range: x0, y0, z0, x1, y1, z1 in m; a point outside is dropped.
        pillar: sx, sy, sz in m.
        window: side of a window, in pillars.
        group: pillars per group.
        classes: names, by label.
        velocity: whether boxes end in vx, vy.
    """

    kind: ClassVar[str] = "point-cloud-detection"

    columns: int
    point_range: tuple[float, ...]
    pillar: tuple[float, ...]
    window: int
    group: int
    classes: tuple[str, ...]
    velocity: bool = False

    def __post_init__(self) -> None:
        if self.columns not in (4, 5) or isinstance(self.columns, bool):
            raise InputError(f"columns: expected 4 or 5, got {self.columns!r}")
        msgspec.structs.force_setattr(self, "point_range", _numbers("point_range", self.point_range, 6))
        msgspec.structs.force_setattr(self, "pillar", _numbers("pillar", self.pillar, 3))
        if any(self.point_range[axis] >= self.point_range[axis + 3] for axis in range(3)):
            raise InputError(
                f"point_range: expected x0 < x1, y0 < y1 and z0 < z1, got {list(self.point_range)}"
            )
        if min(self.pillar) <= 0:
            raise InputError(f"pillar: expected positive sizes, got {list(self.pillar)}")
        for name in ("window", "group"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}: expected an integer from 1, got {value!r}")
        if (
            not isinstance(self.classes, (list, tuple))
            or not self.classes
            or not all(isinstance(name, str) and name for name in self.classes)
        ):
            raise InputError(f"classes: expected a list of names, got {self.classes!r}")
        msgspec.structs.force_setattr(self, "classes", tuple(self.classes))
        if not isinstance(self.velocity, bool):
            raise InputError(f"velocity: expected true or false, got {self.velocity!r}")

    @property
    def grid(self) -> Grid:
        """The pillars."""
        return Grid(self.point_range, self.pillar)

    def read(self, path: str) -> Cloud:
        """Read one sweep as the model takes it; what is dropped is counted.

        Raises:
            InputError: see `edgetx.points.read_points`.
        """
        return read_points(path, self.columns).within(self.grid)

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read one sweep; dropped points are logged: as a warning where they are not finite.

        Returns:
            The points, float32 `[points, columns]`: finite and in range.

        Raises:
            InputError: see `read`; also no such input.
        """
        cloud = self.read(path)
        logger.log(logging.WARNING if cloud.dropped_nonfinite else logging.INFO, "%s: %s", path, cloud)
        return self.feeds(cloud.points, io)

    def feeds(self, points: Array, io: IOSpec) -> dict[str, Any]:
        """Points `[points, columns]` as the model's input.

        Raises:
            InputError: the model takes another number of columns or no points.
        """
        spec = pick_input(io, "points", self.kind)
        if len(spec.shape) != 2 or spec.shape[1] != self.columns or spec.dtype != "float32":
            raise InputError(
                f"the {self.kind} processor fills float32 [points, {self.columns}]; the model takes {spec}"
            )
        return {spec.name: points}

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Detections in the model's order: by falling score.

        Returns:
            For each, label, score, center (x, y, z in m, of the box's centre), size (length along the
            heading, width, height in m), yaw (rad, counter-clockwise from x) and, with `velocity`, velocity
            (vx, vy in m/s).

        Raises:
            InputError: the outputs do not fit together, are not finite, or a label has no class.
        """
        import numpy as np

        boxes, scores, labels = self._rows(outputs)
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise InputError("the detections hold NaN or infinity; run `edgetx verify` on the package")
        detections = []
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            if not 0 <= label < len(self.classes):
                raise InputError(f"label {label} has no class; the package names {', '.join(self.classes)}")
            detection = {
                "label": self.classes[label],
                "score": score,
                "center": box[:3],
                "size": box[3:6],
                "yaw": box[6],
            }
            if self.velocity:
                detection["velocity"] = box[7:9]
            detections.append(detection)
        return detections

    def counts(self, points: Array) -> dict[str, int]:
        """What the model will see of float `[points, columns]`: `points`, `pillars` and `groups`.

        Points that are not finite or out of range do not count.
        """
        import numpy as np

        kept = points[self.grid.inside(points) & np.isfinite(points).all(axis=1)]
        pillars = len(self.grid.pillars(kept)[0])
        return {"points": len(kept), "pillars": pillars, "groups": -(-pillars // self.group)}

    def partitions(self, points: Array, what: Iterable[str]) -> tuple[Array, dict[str, Array]]:
        """How the network divides points that are all in range.

        Args:
            points: float `[points, columns]`.
            what: `windows` and `groups`.

        Returns:
            int64 `[points]`, each point's pillar; and by name int64 `[pillars]`, each pillar's window (with
            and without shift) or group (in each of the four orders).
        """
        pillars, pillar_of = self.grid.pillars(points)
        found: dict[str, Array] = {}
        for kind in what:
            for shifted in (False, True):
                suffix = ", shifted" if shifted else ""
                if kind == "windows":
                    found[f"windows{suffix}"] = windows(pillars, self.window, shifted=shifted)
                else:
                    found[f"groups along x{suffix}"] = groups(
                        pillars, self.grid, self.window, self.group, axis="x", shifted=shifted
                    )
                    found[f"groups along y{suffix}"] = groups(
                        pillars, self.grid, self.window, self.group, axis="y", shifted=shifted
                    )
        return pillar_of, found

    def match(
        self, expected: Mapping[str, Any], actual: Mapping[str, Any], tolerance: float
    ) -> tuple[dict[str, Any], str | None]:
        """Pair the rows of two runs, whose order means nothing where scores are equal.

        Each expected row takes the nearest free row of its label. Angles that differ by full turns are equal.

        Args:
            expected, actual: outputs by name.
            tolerance: largest accepted absolute error of values of order 1; it grows with the largest value.

        Returns:
            `actual` in the order of `expected`, and None; or, where rows have no counterpart, `actual` as far
            as it can be paired and the reason.
        """
        import numpy as np

        boxes, scores, labels = self._rows(expected)
        other_boxes, other_scores, other_labels = self._rows(actual)
        if len(boxes) != len(other_boxes):
            return dict(actual), f"{len(boxes)} detections were expected, {len(other_boxes)} were found"
        if not len(boxes):
            return dict(actual), None
        allowed = tolerance * np.array(
            [
                *[max(1.0, float(np.abs(boxes).max()))] * boxes.shape[1],
                max(1.0, float(np.abs(scores).max())),
            ]
        )
        rows = np.column_stack([boxes, scores]).astype(np.float64)
        free = np.column_stack([other_boxes, other_scores]).astype(np.float64)
        used = np.zeros(len(free), bool)
        order, turns, lonely = np.empty(len(rows), np.int64), np.empty(len(rows)), []
        for index, row in enumerate(rows):
            difference = free - row
            turn = np.rint(difference[:, 6] / (2 * math.pi))
            difference[:, 6] -= turn * (2 * math.pi)
            excess = np.abs(difference / allowed).max(axis=1)
            excess[np.isnan(excess)] = np.inf
            # Numbers keep an order between rows that are out of the question, so that each still takes one.
            excess[other_labels != labels[index]] = np.inf
            best = int(np.lexsort((excess, used))[0])
            if excess[best] > 1:
                lonely.append((index, float(excess[best])))
            used[best] = True
            order[index], turns[index] = best, turn[best]
        arranged = {
            **actual,
            BOXES: np.array(other_boxes[order]),
            SCORES: other_scores[order],
            LABELS: other_labels[order],
        }
        arranged[BOXES][:, 6] -= np.where(np.isfinite(turns), turns, 0) * (2 * math.pi)
        if not lonely:
            return arranged, None
        index, excess_of = lonely[0]
        where = ", ".join(f"{number:.2f}" for number in boxes[index, :3])
        nearest = (
            "no other has its label"
            if math.isinf(excess_of)
            else f"the nearest is {excess_of:.3g} tolerances off"
        )
        return arranged, (
            f"{len(lonely)} of {len(rows)} detections have no counterpart, first {self._name(labels[index])} "
            f"{scores[index]:.3f} at ({where}): {nearest}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings; `type(self)(**to_dict())` gives an equal processor."""
        return settings(self)

    def _name(self, label: Any) -> str:
        return self.classes[label] if 0 <= label < len(self.classes) else f"label {label}"

    def _rows(self, outputs: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        import numpy as np

        if missing := [name for name in (BOXES, SCORES, LABELS) if name not in outputs]:
            raise InputError(
                f"the model has no output {missing[0]!r} to make detections of; it has {sorted(outputs)}"
            )
        boxes, scores, labels = (np.asarray(outputs[name]) for name in (BOXES, SCORES, LABELS))
        width = 9 if self.velocity else 7
        if boxes.shape != (len(scores), width) or labels.shape != scores.shape or scores.ndim != 1:
            raise InputError(
                f"the outputs have the shapes boxes {list(boxes.shape)}, scores {list(scores.shape)}, labels "
                f"{list(labels.shape)}; expected [detections, {width}], [detections] and [detections]"
            )
        return boxes, scores, labels


def _numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != count or not all(map(is_number, values)):
        raise InputError(f"{name}: expected {count} numbers, got {values!r}")
    return tuple(map(float, values))
