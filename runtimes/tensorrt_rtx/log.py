"""TensorRT-RTX's log, kept instead of printed."""

from __future__ import annotations

import logging

import tensorrt_rtx as trt

logger = logging.getLogger(__name__)


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps errors; warnings and less go to Python's log."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by TensorRT-RTX, from any thread."""
        if severity <= trt.ILogger.ERROR:
            self.errors.append(" ".join(message.split()))
        else:
            logger.debug("%s", message)

    def cause(self) -> str:
        """The first error since the last call, which is the cause of the others, and forget all."""
        first, self.errors = (self.errors or ["it gave no reason"])[0], []
        return first
