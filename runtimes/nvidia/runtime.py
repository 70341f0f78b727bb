"""What the runtimes of TensorRT and TensorRT-RTX do alike: look at a graph, build, find and open engines."""

from __future__ import annotations

import importlib.util
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgetx import engines
from edgetx.core import Runtime, Session, Target
from edgetx.engines import child
from edgetx.errors import InputError, UnavailableError
from edgetx.runtimes.nvidia import cuda
from edgetx.runtimes.nvidia.bodies import Bodies, available, choose, current, why_no_run
from edgetx.runtimes.nvidia.library import Library

if TYPE_CHECKING:
    from edgetx.package import Package

logger = logging.getLogger(__name__)

CHECK_SECONDS = 120.0
"""The longest that the parser may take to look at a model."""
WORKER = "edgetx.runtimes.nvidia.worker"

_SAME = ("model", "engine", "precision")
"""Fields of the key that an engine must share to be loaded, whatever else it was built for."""


class EngineRuntime(Runtime):
    """A runtime whose engines are built ahead, from the operators' ONNX bodies or plugins."""

    library: ClassVar[Library]

    def why_not(self, package: Package | None = None, target: Target | None = None) -> str | None:
        """See `Runtime.why_not`: whether it can *run* here; `why_no_build` says whether it can build.

        With a package that is asked to run on a GPU, the engine's own parser looks at the graph, in a
        process of its own.
        """
        if target is not None and target.provider:
            raise InputError(f"execution providers are ONNX Runtime's: the runtime {self.id} has none")
        if (reason := self.library.why_not()) is not None:
            return reason
        if target is not None and not target.device.startswith("cuda"):
            return f"{self.title} runs on NVIDIA GPUs, not on {target.device}; give the device cuda"
        if (reason := self._why_no_gpu(target)) is not None:
            reasons = [reason, None if package is None else self.why_no_build(package)]
            return "; ".join(dict.fromkeys(filter(None, reasons)))
        return None if package is None else self.why_no_build(package)

    def why_no_build(self, package: Package, compute: Sequence[str] = ()) -> str | None:
        """None if an engine of `package` can be built here, else the reasons; names operators and stages.

        Raises:
            InputError: a compute capability that is never built for.
        """
        if (reason := self.library.why_not()) is not None:
            return reason
        self.targets(compute)
        if (reason := self._why_no_builder()) is not None:
            return reason
        parts = [package, *(package.stage(name) for name in package.stages)]
        request = {
            "library": self.library.place,
            "check": [
                {"model": str(part.model_path), **choose(part, self.library, "").for_graph()}
                for part in parts
            ],
        }
        found = child.run(WORKER, request, seconds=CHECK_SECONDS)["problems"]
        if not found[0]:
            return None
        reason = f"{self.title} does not take {'; '.join(found[0])}"
        if package.is_stage:
            return f"{reason}; run the stage {package.name} on ONNX Runtime"
        if not package.stages:
            return f"{reason}; run the model on ONNX Runtime (--runtime ort)"
        able = [name for name, problems in zip(package.stages, found[1:], strict=True) if not problems]
        others = [
            f"stage {name}: {'; '.join(problems)}"
            for name, problems in zip(package.stages, found[1:], strict=True)
            if problems
        ]
        build = f"build its stages {', '.join(able)} with --stage" if able else "no stage can be built either"
        return f"{reason}; {build} ({'; '.join(others)})"

    def version(self) -> str | None:
        """See `Runtime.version`."""
        return self.library.version()

    def key(
        self,
        package: Package,
        compute: Sequence[str],
        profiles: Sequence[engines.Ranges],
        bodies: Bodies | None = None,
        device: int = 0,
    ) -> dict[str, str]:
        """What an engine of `package` depends on; see `edgetx.engines`."""
        chosen = bodies if bodies is not None else choose(package, self.library, "")
        return {
            "model": engines.model_digest(package),
            "engine": f"{self.title} {self.version()}",
            "compute": ", ".join(compute),
            **self._machine(device),
            "precision": package.manifest.precision,
            "bodies": chosen.text,
            "plugin": chosen.plugin_text,
            "profiles": engines.show_ranges(profiles),
        }

    def build(
        self,
        package: Package,
        request: engines.Request,
        progress: Callable[[str], None] = lambda line: None,
    ) -> tuple[engines.Engine, bool]:
        """See `Runtime.build`."""
        if (reason := self.library.why_not()) is not None:
            raise UnavailableError(reason)
        compute = self.targets(request.compute, request.device)
        if (reason := self._why_no_builder(request.device)) is not None:
            raise UnavailableError(reason)
        bodies = choose(package, self.library, request.bodies)
        profiles = engines.choose(package, request)
        cache = engines.Cache(package)
        asked = {
            "library": self.library.place,
            "model": str(package.model_path),
            **bodies.for_graph(),
            "compute": list(compute),
            "device": request.device,
            "profiles": [_shapes(package, ranges) for ranges in profiles],
            "name": package.name,
            "times": str(cache.folder / f"times.{self.id}.cache") if self.library.times else None,
        }

        def produce(plan: Path) -> None:
            child.run(
                WORKER,
                {**asked, "plan": str(plan), "draft": str(plan.parent)},
                seconds=request.seconds,
                progress=progress,
            )

        return cache.ensure(
            self.id,
            self.key(package, compute, profiles, bodies, request.device),
            profiles,
            produce,
            seconds=request.seconds,
            force=request.force,
            progress=progress,
        )

    def open(self, package: Package, target: Target) -> Session:
        """See `Runtime.open`; builds an engine for this GPU where the cache has none that fits.

        Raises:
            UnavailableError: see `why_not`, without the look at the graph that building takes anyway.
            EdgetxError: the engine cannot be built, or is refused.
        """
        if (reason := self.why_not(None, target)) is not None:
            raise UnavailableError(reason)
        index = device_index(target)
        gpu = cuda.devices()[index]
        engine = self.find(package, gpu.compute, index)
        if engine is None:
            request = engines.Request(compute=(gpu.compute,), device=index)
            wanted = self.key(
                package,
                (gpu.compute,),
                engines.choose(package, request),
                choose(package, self.library, ""),
                index,
            )
            why = engines.Cache(package).why_none(self.id, wanted) or "the cache has no engine"
            logger.warning("building an engine of %s for %s: %s", package.name, gpu.name, why)
            engine, _ = self.build(package, request, logger.info)
        return self.session(package, engine, index, target.profile)

    def choices(self, package: Package) -> Mapping[str, str | None]:
        """See `Runtime.choices`."""
        return available(package, self.library)

    def session(
        self, package: Package, engine: engines.Engine, device: int = 0, profile: str | None = None
    ) -> Session:
        """See `Runtime.session`; `profile` as in `Target`."""
        from edgetx.runtimes.nvidia.session import EngineSession

        return EngineSession(package, engine, device, cuda.devices()[device], self.library, profile)

    def find(self, package: Package, compute: str, device: int = 0) -> engines.Engine | None:
        """The newest whole engine of `package` that a GPU of this capability loads, whatever its profiles.

        One that was measured (`--tune`) comes before those that were not.
        """
        fitting = []
        for engine in engines.Cache(package).engines():
            record = engine.record
            if record is None or (record.runtime, record.graph) != (self.id, package.graph):
                continue
            wanted = self.key(package, (compute,), (), device=device)
            if any(record.key.get(name) != wanted[name] for name in _SAME) or not current(record.key):
                continue
            if not self._loads(record.key, wanted, compute):
                continue
            problem = engine.problem or why_no_run(record.key, self.library)
            if problem is None:
                fitting.append(engine)
            else:
                logger.warning("not loaded: %s: %s", engine.path.name, problem)
        tuned = [each for each in fitting if each.record is not None and each.record.tuned]
        return next(reversed(tuned or fitting), None)

    @abstractmethod
    def targets(self, wanted: Sequence[str], device: int = 0) -> tuple[str, ...]:
        """What an engine is built for, in order.

        Raises:
            InputError: a compute capability that is not built for; says which are, and who serves this one.
        """

    @abstractmethod
    def _why_no_device(self, gpu: cuda.Gpu) -> str | None:
        """None if engines run on this GPU, else the reason."""

    @abstractmethod
    def _loads(self, built: engines.Key, wanted: engines.Key, compute: str) -> bool:
        """Whether a GPU of this capability loads an engine with this key."""

    def _machine(self, device: int) -> dict[str, str]:
        """Fields of the key about the machine that builds."""
        return {}

    def _why_no_builder(self, device: int = 0) -> str | None:
        """None if graphs can be prepared and built here, else what is missing."""
        if importlib.util.find_spec("onnx_ir") is None:
            return f"building an engine needs onnx_ir; {self.library.install}"
        return None

    def _why_no_gpu(self, target: Target | None) -> str | None:
        found = cuda.devices()
        if not found:
            return f"{self.title} has no NVIDIA GPU to run on here ({cuda.why_none()}){self._without_gpu()}"
        index = 0 if target is None else device_index(target)
        if index >= len(found):
            return f"there is no device cuda:{index}; the last one is cuda:{len(found) - 1}"
        reason = self._why_no_device(found[index])
        return None if reason is None else f"{found[index].name}: {reason}"

    def _without_gpu(self) -> str:
        """What can be done where there is no GPU, as the end of a sentence."""
        return ""


def device_index(target: Target) -> int:
    """The index of `cuda[:index]`.

    Raises:
        InputError: another form.
    """
    _, _, index = target.device.partition(":")
    if index and not index.isdigit():
        raise InputError(f"unknown device {target.device!r}; accepted: cuda, cuda:<index>")
    return int(index or 0)


def _shapes(package: Package, ranges: engines.Ranges) -> dict[str, list[list[int]]]:
    """Least, best and largest shape of every input."""

    def size(dim: Any, at: str) -> int:
        return dim if isinstance(dim, int) else int(getattr(ranges[dim], at))

    return {
        spec.name: [[size(dim, at) for dim in spec.shape] for at in ("min", "opt", "max")]
        for spec in package.io.inputs
    }
