"""A sweep and its boxes from above, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw

    Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 1200
"""Pixels of the longer side."""
_MARGIN = 24
_FINER = 2
"""Lines are drawn this many times larger, and shrunk."""
_BACKGROUND, _FAINT, _TEXT = (16, 18, 22), (62, 68, 78), (214, 218, 224)
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis at five places."""
PALETTE = (
    (255, 145, 77), (88, 196, 255), (255, 99, 132), (190, 242, 100), (216, 150, 255),
    (255, 214, 90), (94, 234, 212), (251, 146, 200), (147, 170, 255), (226, 232, 240),
)  # fmt: skip
"""Colours of the classes, in order."""


@dataclass(frozen=True)
class _View:
    """Metres to pixels: x is up and y is left."""

    top: float
    left: float
    scale: float
    size: tuple[int, int]

    def __call__(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Column and row, of numbers or arrays."""
        return (self.left - y) * self.scale + _MARGIN, (self.top - x) * self.scale + _MARGIN


def birds_eye(
    points: Array,
    detections: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[str],
    point_range: Sequence[float],
    color: str = "height",
    title: str = "",
) -> Image.Image:
    """Draw a sweep from above: x is up, y is left, the sensor at the rings' centre.

    Args:
        points: float `[points, >= 4]`.
        detections: with label, score, center, size and yaw; a line leads from the centre over the front.
        classes: in the order of their colours.
        point_range: x0, y0, z0, x1, y1, z1 in m: what is shown.
        color: `height` or `intensity`.
        title: stands above the legend.
    """
    from PIL import Image, ImageDraw

    x0, y0, z0, x1, y1, z1 = point_range
    scale = (SIDE - 2 * _MARGIN) / max(x1 - x0, y1 - y0)
    size = (round((y1 - y0) * scale) + 2 * _MARGIN, round((x1 - x0) * scale) + 2 * _MARGIN)
    view = _View(x1, y1, scale, size)
    low, high = (z0, z1) if color == "height" else _spread(points[:, 3])
    image = Image.fromarray(_dots(points, points[:, 2 if color == "height" else 3], (low, high), view))
    fine = Image.new("RGBA", (size[0] * _FINER, size[1] * _FINER))
    lines = ImageDraw.Draw(fine)
    step = _ring_step(max(map(math.hypot, (x0, x0, x1, x1), (y0, y1, y0, y1))))
    radii = [step * (index + 1) for index in range(math.ceil(math.hypot(x1 - x0, y1 - y0) / step))]
    for radius in radii:
        corners = (*view(radius, radius), *view(-radius, -radius))
        lines.ellipse([_FINER * corner for corner in corners], outline=(*_FAINT, 255), width=_FINER)
    colors = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(classes)}
    for detection in detections:
        _box(lines, detection, colors.get(detection["label"], _TEXT), view)
    image.paste(shrunk := fine.reduce(_FINER), mask=shrunk.getchannel("A"))
    draw = ImageDraw.Draw(image)
    _captions(draw, radii, view)
    _scale_bar(draw, step / 2, view)
    _legend(draw, detections, colors, title)
    _ramp_bar(draw, color, (low, high), size)
    return image


def _dots(points: Array, values: Array, limits: tuple[float, float], view: _View) -> Array:
    import numpy as np

    width, height = view.size
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    order = np.argsort(values, kind="stable")
    columns, rows = view(points[order, 0], points[order, 1])
    seen = (columns >= 0) & (columns < width - 1) & (rows >= 0) & (rows < height - 1)
    share = np.clip((values[order][seen] - limits[0]) / max(limits[1] - limits[0], 1e-6), 0, 1)
    colors, row, column = ramp(share), rows[seen].astype(int), columns[seen].astype(int)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        canvas[row + down, column + right] = colors
    return canvas


def ramp(share: Array) -> Array:
    """Uint8 `[n, 3]` for numbers from 0 to 1."""
    import numpy as np

    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, stops, [color[channel] for color in _RAMP]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _spread(values: Array) -> tuple[float, float]:
    """The lowest value, and the one that 99 of 100 are below."""
    import numpy as np

    if not len(values):
        return 0.0, 1.0
    return float(values.min()), float(np.percentile(values, 99))


def _ring_step(farthest: float) -> int:
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**9) if farthest / step <= 10)


def _box(lines: ImageDraw.ImageDraw, detection: Mapping[str, Any], color: Any, view: _View) -> None:
    (x, y, _), (length, width, _) = detection["center"], detection["size"]
    ahead = (math.cos(detection["yaw"]), math.sin(detection["yaw"]))

    def place(along: float, across: float) -> tuple[float, float]:
        column, row = view(x + along * ahead[0] - across * ahead[1], y + along * ahead[1] + across * ahead[0])
        return column * _FINER, row * _FINER

    half, side = length / 2, width / 2
    outline = [place(half, side), place(half, -side), place(-half, -side), place(-half, side)]
    lines.line([*outline, outline[0], outline[1]], fill=(*color, 255), width=2 * _FINER)
    lines.line([place(0, 0), place(half + 0.8, 0)], fill=(*color, 255), width=2 * _FINER)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _captions(draw: ImageDraw.ImageDraw, radii: Sequence[int], view: _View) -> None:
    """Each ring's radius, where the ring crosses the line ahead or, if that is not shown, to the left."""
    for radius in radii:
        for x, y in ((radius, 0.0), (0.0, radius), (-radius, 0.0)):
            column, row = view(x, y)
            if 0 <= column < view.size[0] - 40 and 0 <= row < view.size[1] - 16:
                draw.text((column + 3, row + 1), f"{radius} m", fill=(140, 147, 158), font=_font(13))
                break


def _scale_bar(draw: ImageDraw.ImageDraw, meters: float, view: _View) -> None:
    width, height = view.size
    end, row = width - _MARGIN, height - _MARGIN
    start = end - meters * view.scale
    for line in ([start, row, end, row], [start, row - 5, start, row + 5], [end, row - 5, end, row + 5]):
        draw.line(line, fill=_TEXT, width=2)
    draw.text(((start + end) / 2, row - 8), f"{meters:g} m", fill=_TEXT, font=_font(15), anchor="ms")


def _legend(
    draw: ImageDraw.ImageDraw,
    detections: Sequence[Mapping[str, Any]],
    colors: Mapping[str, tuple[int, int, int]],
    title: str,
) -> None:
    row = _MARGIN
    if title:
        draw.text((_MARGIN, row), title, fill=_TEXT, font=_font(16))
        row += 26
    for name, color in colors.items():
        found = sum(detection["label"] == name for detection in detections)
        draw.rectangle([_MARGIN, row + 3, _MARGIN + 12, row + 15], outline=color, width=2)
        draw.text((_MARGIN + 20, row), f"{name}  {found}", fill=_TEXT, font=_font(15))
        row += 21


def _ramp_bar(
    draw: ImageDraw.ImageDraw, color: str, limits: tuple[float, float], size: tuple[int, int]
) -> None:
    import numpy as np

    row, length = size[1] - _MARGIN, 120
    for offset, shade in enumerate(ramp(np.linspace(0, 1, length)).tolist()):
        draw.line([_MARGIN + offset, row - 6, _MARGIN + offset, row + 2], fill=tuple(shade))
    unit = " m" if color == "height" else ""
    text = f"{color} {limits[0]:.3g} to {limits[1]:.3g}{unit}"
    draw.text((_MARGIN, row - 10), text, fill=_TEXT, font=_font(14), anchor="ls")
