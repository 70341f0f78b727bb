"""Detections with the fields of a nuScenes detection submission (Caesar et al. 2020, nuscenes-devkit)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_NOTE = (
    "sensor: x forward, y left, z up, in metres. The pose of the vehicle is not in a sweep; "
    "move translation, rotation and velocity to the global frame before submitting"
)


def to_nuscenes(detections: Iterable[Mapping[str, Any]], sample_token: str) -> dict[str, Any]:
    """The submission of one sweep, JSON-serialisable, in the sensor's frame, as `meta` says.

    Sizes are width, length, height; rotations are quaternions w, x, y, z; attributes are empty, which the
    devkit accepts. Where the model predicts no velocity it is 0, 0, and `meta` says so.
    """
    detections = list(detections)
    boxes = []
    for detection in detections:
        length, width, height = detection["size"]
        half = detection["yaw"] / 2
        boxes.append(
            {
                "sample_token": sample_token,
                "translation": list(detection["center"]),
                "size": [width, length, height],
                "rotation": [math.cos(half), 0.0, 0.0, math.sin(half)],
                "velocity": list(detection.get("velocity", (0.0, 0.0))),
                "detection_name": detection["label"],
                "detection_score": detection["score"],
                "attribute_name": "",
            }
        )
    predicted = all("velocity" in detection for detection in detections)
    meta = {
        "use_camera": False,
        "use_lidar": True,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
        "frame": _NOTE,
        "velocity": "predicted, in m/s" if predicted else "not predicted; written as 0",
    }
    return {"meta": meta, "results": {sample_token: boxes}}
