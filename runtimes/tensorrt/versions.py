"""TensorRT as a `Library`; every difference between the versions 10.3 to 11 is here.

| version | what begins |
| --- | --- |
| 10.3 | the oldest that we take (JetPack 6); networks are strongly typed by a flag |
| 10.7 | the parser prefers a registered plugin to a function of the same name (engines are built from graphs
  without functions, so that the older ones need no variant of their own) |
| 10.8 | Blackwell, 10.0 and 12.0 |
| 10.9 | quick-deployable plugins that are compiled ahead of time |
| 10.13 | Jetson Thor, 11.0 |
| 10.14 | `Attention` of opset 23; GB300 and DGX Spark, 10.3 and 12.1 |
| 11 | networks are always strongly typed: the flag may be gone |

Written against TensorRT's documentation and release notes; no version of it has run here yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from edgetx.runtimes.nvidia.library import Library

Version = tuple[int, int]

OLDEST: Version = (10, 3)
LATEST_MAJOR = 11
ATTENTION: Version = (10, 14)
QUICK_PLUGINS: Version = (10, 9)

PORTABLE = "portable"
"""One engine for Ampere and later (`HardwareCompatibilityLevel.AMPERE_PLUS`)."""
GPUS: Mapping[str, Version] = {
    "7.5": OLDEST,
    "8.0": OLDEST,
    "8.6": OLDEST,
    "8.7": OLDEST,
    "8.9": OLDEST,
    "9.0": OLDEST,
    "10.0": (10, 8),
    "12.0": (10, 8),
    "11.0": (10, 13),
    "10.3": (10, 14),
    "12.1": (10, 14),
}
"""Compute capability -> the first version that builds for it."""


def parse(text: str) -> Version | None:
    """`10.14.1.48` as `(10, 14)`; None for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return None if match is None else (int(match[1]), int(match[2]))


def why_not(text: str) -> str | None:
    """None for a version that we know, else the reason."""
    version = parse(text)
    if version is None:
        return f"cannot read TensorRT's version {text!r}"
    if version < OLDEST or version[0] > LATEST_MAJOR:
        return f"TensorRT {text} is installed; accepted: {show(OLDEST)} to {LATEST_MAJOR}"
    return None


def why_not_gpu(compute: str, text: str) -> str | None:
    """None if this version builds for a compute capability, else the reason."""
    version = parse(text)
    since = GPUS.get(compute)
    if since is None:
        return f"TensorRT does not support compute capability {compute}; accepted: {', '.join(GPUS)}"
    if version is not None and version < since:
        return f"TensorRT {text} does not know compute capability {compute}; {show(since)} and later do"
    return None


def why_no_attention(text: str) -> str | None:
    """None if the parser of this version takes `Attention`, else the reason."""
    return _since(text, ATTENTION, "the ONNX operator Attention")


def why_no_quick_plugins(text: str) -> str | None:
    """None if this version has quick-deployable plugins, else the reason."""
    return _since(text, QUICK_PLUGINS, "plugins that are compiled ahead of time")


def show(version: Version) -> str:
    """`10.14`."""
    return ".".join(map(str, version))


def _since(text: str, since: Version, what: str) -> str | None:
    version = parse(text)
    if version is not None and version < since:
        return f"TensorRT {text} does not take {what}; {show(since)} and later do"
    return None


class TensorRT(Library):
    """TensorRT 10.3 to 11: builds on the GPU that the engine is for."""

    id: ClassVar[Literal["tensorrt"]] = "tensorrt"
    title: ClassVar[str] = "TensorRT"
    install: ClassVar[str] = "pip install 'edgetx[tensorrt]' (on a Jetson, JetPack brings it)"
    distributions: ClassVar[tuple[str, ...]] = (
        "tensorrt", "tensorrt_cu13", "tensorrt_cu12", "tensorrt_cu11",
    )  # fmt: skip
    place: ClassVar[str] = "edgetx.runtimes.tensorrt.versions:LIBRARY"
    refused: ClassVar[Mapping[str, str]] = {}
    times: ClassVar[bool] = True
    captures: ClassVar[bool] = True

    def why_not(self) -> str | None:
        """See `Library.why_not`; also an installed version that we do not know."""
        missing = super().why_not()
        version = self.version()
        return missing if missing is not None or version is None else why_not(version)

    def version(self) -> str | None:
        """See `Library.version`; JetPack's TensorRT is asked itself."""
        found = super().version()
        if found is not None or super().why_not() is not None:
            return found
        return str(self.load().__version__)

    def why_no_attention(self) -> str | None:
        """See `Library.why_no_attention`."""
        return why_no_attention(self.version() or "")

    def why_no_quick(self) -> str | None:
        """See `Library.why_no_quick`."""
        from edgetx.ops.aot import compiler

        return why_no_quick_plugins(self.version() or "") or compiler.why_not()

    def network_flags(self, trt: Any) -> int:
        """See `Library.network_flags`."""
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def aim(self, trt: Any, config: Any, compute: Sequence[str]) -> None:
        """See `Library.aim`: the GPU of the current context, or Ampere and later."""
        if tuple(compute) == (PORTABLE,):
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


LIBRARY = TensorRT()
