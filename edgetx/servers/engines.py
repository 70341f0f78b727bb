"""The engines of a package that Triton's TensorRT backend can load."""

from __future__ import annotations

from typing import NamedTuple

from edgetx.engines import Cache, Engine, model_digest, show_ranges
from edgetx.errors import InputError, UnavailableError
from edgetx.package import Package
from edgetx.servers.config import BATCH

RUNTIME = "tensorrt"
PORTABLE = "portable"
"""The compute capability of an engine for every GPU since Ampere."""


class Plans(NamedTuple):
    """Engines by compute capability, and what they have in common."""

    engines: dict[str, Engine]
    profiles: int
    max_batch: int | None
    plugin: bool

    @property
    def files(self) -> dict[str, str]:
        """Compute capability -> file name."""
        return {compute: f"{compute}.plan" for compute in self.engines}


def find(package: Package) -> Plans:
    """The newest whole engine for each compute capability.

    Raises:
        UnavailableError: there is none; says what the package has instead.
        InputError: the engines have different profiles, and Triton is told of one set for all GPUs.
    """
    chosen: dict[str, Engine] = {}
    others = []
    for engine in Cache(package).engines():
        record = engine.record
        if record is None or engine.problem is not None:
            others.append(engine.problem or engine.path.name)
        elif record.graph != package.graph:
            others.append(f"{engine.path.name} is of {record.graph}")
        elif record.runtime != RUNTIME:
            others.append(f"{engine.path.name} is of {record.runtime}, which Triton has no backend for")
        elif record.key.get("model") != model_digest(package):
            others.append(f"{engine.path.name} was built from another {package.graph}")
        else:
            chosen[record.key["compute"]] = engine
    if not chosen:
        raise UnavailableError(
            f"{package.path} has no engine that Triton's TensorRT backend loads ("
            + ("; ".join(others) or "it has none at all")
            + "); build one on the GPU that serves: edgetx build PKG --runtime tensorrt; or serve it with "
            "--backend onnxruntime"
        )
    chosen = dict(sorted(chosen.items()))
    if len({show_ranges(engine.profiles) for engine in chosen.values()}) > 1:
        raise InputError(
            f"the engines for {', '.join(chosen)} have different profiles; build them with one --profile, "
            "or remove those that do not serve"
        )
    profiles = next(iter(chosen.values())).profiles
    tops = [ranges[BATCH].max for ranges in profiles if BATCH in ranges]
    keys = [engine.record.key for engine in chosen.values() if engine.record is not None]
    plugin = any(key.get("plugin", "none") != "none" for key in keys)
    return Plans(chosen, len(profiles), max(tops, default=None), plugin)
