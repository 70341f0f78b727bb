"""What differs between TensorRT and TensorRT-RTX, whose Python interfaces are otherwise one."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, ClassVar, Literal

LARGEST_TOPK = 3840
"""The most that TopK takes, in both."""


class Library(ABC):
    """One of the two. Stateless; the engine's own library is imported by `load` alone."""

    id: ClassVar[Literal["tensorrt", "tensorrt_rtx"]]
    """The runtime's id and the name of the Python module."""
    title: ClassVar[str]
    install: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    place: ClassVar[str]
    """`module:name` of the instance, for a child process."""
    refused: ClassVar[Mapping[str, str]]
    """Operators that are parsed badly or not at all, and why."""
    times: ClassVar[bool]
    """Whether building times kernels on the GPU, and keeps the times for the next build."""

    captures: ClassVar[bool]
    """Whether a session must make CUDA graphs; else the library makes them itself."""

    def why_not(self) -> str | None:
        """None if the library is installed in a version that we know, else how to get it."""
        if importlib.util.find_spec(self.id) is None:
            return f"{self.title} is not installed; {self.install}"
        return None

    def version(self) -> str | None:
        """The installed version, or None."""
        for distribution in self.distributions:
            try:
                return metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        return None

    def load(self) -> Any:
        """The Python module."""
        return importlib.import_module(self.id)

    def why_no_attention(self) -> str | None:
        """None if the parser takes `Attention` of opset 23, else the reason."""
        return None

    def why_no_quick(self) -> str | None:
        """None if engines can carry plugins' kernels, and these can be compiled here, else the reason."""
        return f"{self.title} has no plugins that are compiled ahead of time; TensorRT 10.9 and later have"

    def context(self, trt: Any, engine: Any, graphs: bool = True) -> Any:
        """An execution context of a loaded engine, or None; `graphs` lets the library make CUDA graphs."""
        return engine.create_execution_context()

    @abstractmethod
    def network_flags(self, trt: Any) -> int:
        """The flags of a strongly typed network: every precision is the graph's."""

    @abstractmethod
    def aim(self, trt: Any, config: Any, compute: Sequence[str]) -> None:
        """Tell a builder's configuration which GPUs the engine is for."""


def find(place: str) -> Library:
    """The instance at `module:name`."""
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Library)
    return found
