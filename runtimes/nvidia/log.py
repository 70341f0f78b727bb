"""TensorRT's log, kept instead of printed."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


def make(trt: Any) -> Any:
    """A logger of `trt` (`tensorrt` or `tensorrt_rtx`) that keeps errors; the rest goes to Python's log."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any thread."""
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))
            else:
                logger.debug("%s", message)

        def cause(self) -> str:
            """The first error since the last call, which is the cause of the others, and forget all."""
            first, self.errors = (self.errors or ["it gave no reason"])[0], []
            return first

    return Log()
