"""edgetx on a device: the one that is there, or an environment made offline from this machine's wheels."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetx import __version__
from edgetx.devices import transfer
from edgetx.devices.job import Request
from edgetx.devices.link import Link
from edgetx.devices.wheels import Place, collect, needed
from edgetx.errors import DeviceError

_LOOK = """
import importlib.util, json
import edgetx.devices.job
from edgetx import runtimes
from edgetx.core import Target
wanted, device = {wanted!r}, {device!r}
missing = [each for each in {modules!r} if importlib.util.find_spec(each) is None]
reasons = dict()
for name, runtime in runtimes.runtimes().items():
    if not wanted or name in wanted:
        reasons[name] = runtime.why_not(None, Target(device=device))
known = list(runtimes.runtimes())
print(json.dumps(dict(version=edgetx.__version__, reasons=reasons, missing=missing, known=known)))
"""
_MODULES = {"loads": ("mlperf_loadgen", "mlcommons-loadgen")}
"""Options of a benchmark that need more than a runtime: a module, and the distribution that has it."""


async def ensure(link: Link, request: Request, traffic: transfer.Traffic) -> str:
    """The interpreter on the device that has this edgetx and all that `request` needs.

    Args:
        link: the device, locked.
        request: what will be measured.
        traffic: counts the bytes of wheels.

    Raises:
        DeviceError: edgetx is not there and cannot be installed, or a runtime cannot be used there.
    """
    runtimes, processor = request.runtimes, request.target.device
    more = [each for option, each in _MODULES.items() if request.options.get(option)]
    modules, also = [module for module, _ in more], [name for _, name in more]
    own = await why_not(link, runtimes, processor, modules=modules)
    if own is None:
        link.progress(f"{link.device.name} uses its own edgetx {__version__} ({link.device.python})")
        return link.device.python
    place = Place(link.facts["markers"], tuple(link.facts["libc"]))
    link.progress(f"preparing an environment for {link.device.name}: {own}")
    extras = sorted({_extra(runtime, processor) for runtime in runtimes or ["ort"]})
    folder = None if link.device.wheels is None else Path(link.device.wheels)
    wheels = [transfer.Item.of(path) for path in collect(needed(extras, also, place), place, folder)]
    key = hashlib.sha256("".join(sorted(item.sha256 for item in wheels)).encode()).hexdigest()[:16]
    python = (await link.call("install", key=key))["python"]
    if python is None:
        await transfer.send(link, wheels, traffic, more=sum(map(_unpacked, wheels)))
        link.progress(f"installing edgetx[{','.join(extras)}] on {link.device.name}, without a network")
        answer = await link.call(
            "install",
            key=key,
            wheels={item.path.name: item.sha256 for item in wheels},
            requirements=[f"edgetx[{','.join(extras)}]=={__version__}", *also],
        )
        python = answer["python"]
    reason = await why_not(link, runtimes, processor, modules=modules, python=python)
    if reason is not None:
        raise DeviceError(f"device {link.device.name}: {reason}")
    return str(python)


def _extra(runtime: str, processor: str) -> str:
    if runtime == "ort":
        return "ort" if processor == "cpu" else "ort-gpu"
    return runtime.replace("_", "-")


def _unpacked(wheel: transfer.Item) -> int:
    with zipfile.ZipFile(wheel.path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


async def why_not(
    link: Link,
    runtimes: list[str],
    processor: str,
    *,
    modules: Sequence[str] = (),
    python: str | None = None,
) -> str | None:
    """None if the interpreter has this edgetx, the runtimes (none: any) and the modules, else why not."""
    code = _LOOK.format(wanted=runtimes, device=processor, modules=list(modules))
    answer = await link.call("ask", python=python, code=code)
    if answer["code"]:
        tail = str(answer["tail"])
        missing = "No module named 'edgetx'" in tail
        return "it has no edgetx" if missing else f"edgetx there does not work: {tail}"
    found: dict[str, Any] = json.loads(answer["out"].splitlines()[-1])
    if found["version"] != __version__:
        return f"it has edgetx {found['version']}, here is {__version__}"
    reasons: dict[str, str | None] = found["reasons"]
    if found["missing"]:
        return f"it has no {found['missing'][0]}"
    if unknown := [each for each in runtimes if each not in reasons]:
        return f"edgetx there has no runtime {unknown[0]!r}; it has {', '.join(found['known'])}"
    enough = all if runtimes else any
    if enough(reason is None for reason in reasons.values()):
        return None
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason is not None)
