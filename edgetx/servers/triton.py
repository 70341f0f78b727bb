"""A model repository of Triton Inference Server, from a package.

REPO/NAME/
  config.pbtxt
  labels.txt                  of a classifier that knows its classes
  libedgetx_ort.so            edgetx's kernels; for TensorRT its plugins
  warmup/                     the golden inputs, as raw tensors
  VERSION/model.onnx          or one .plan per compute capability
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from edgetx.errors import InputError, PackageError, UnavailableError
from edgetx.package import Package
from edgetx.processors import ImageClassification, ImageRestoration
from edgetx.servers import config as configs
from edgetx.servers import engines, pbtxt
from edgetx.servers.config import Backend, Instances
from edgetx.servers.repository import CONFIG, Plan, write

LABELS = "labels.txt"
WARMUP = "warmup"
MOST_WARMUPS = 4
"""Golden cases that warm up."""


@dataclass(frozen=True)
class Entry:
    """A model in a repository.

    Attributes:
        path: `REPO/NAME`.
        version: the folder that was written.
        config: the text of `config.pbtxt`.
        max_batch: requests that are joined at most; 0: none.
        notes: what whoever starts the server has to know.
        arguments: of `tritonserver`.
    """

    path: Path
    version: int
    config: str
    max_batch: int
    notes: tuple[str, ...]
    arguments: tuple[str, ...]


def to_triton(
    package: Package | str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    backend: str = "onnxruntime",
    version: int = 1,
    versions: str = "latest:1",
    instances: Sequence[Instances] = (),
    max_batch: int | None = None,
    max_delay: int = 0,
    threads: int = 0,
    custom_ops: bool = True,
    server_path: str | None = None,
    force: bool = False,
) -> Entry:
    """Write a package to a model repository of Triton Inference Server.

    Args:
        package: a package or its folder, or a stage (`Package.stage`).
        repository: the folder that `tritonserver --model-repository` gets; made where it does not exist.
        name: of the model there; the package's by default.
        backend: `onnxruntime`, or `tensorrt` where the package has an engine of TensorRT.
        version: the number of the folder that is written; others of the same model stay.
        versions: which are served: `latest:N`, `all`, or numbers such as `1,3`.
        instances: copies of the model; by default one on the processor, for TensorRT one on every GPU.
        max_batch: requests that are joined at most; by default 8, or what the model takes if that is less,
            and 0 for a model whose tensors do not all begin with `batch`.
        max_delay: microseconds that a request waits for others.
        threads: of each instance on ONNX Runtime; 0 leaves the choice to it.
        custom_ops: let ONNX Runtime load edgetx's kernels where they cover the instances.
        server_path: where the server sees the repository, if that is elsewhere (a container's mount).
        force: replace a version that is there, or the configuration of a model that is there.

    Raises:
        PackageError: the folder is no package or a file has changed.
        InputError: a setting that does not fit; or the model is there already and `force` is not given.
        UnavailableError: the backend cannot take the package; says why.
    """
    opened = package if isinstance(package, Package) else Package.open(package)
    if backend not in get_args(Backend):
        raise InputError(f"unknown backend {backend!r}; accepted: {', '.join(get_args(Backend))}")
    chosen = cast(Backend, backend)
    name = name if name is not None else re.sub(r"[^A-Za-z0-9_.-]+", "_", opened.name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} is no name for a model; accepted: letters, digits, _, - and .")
    for what, number, least in (
        ("version", version, 1),
        ("max_delay", max_delay, 0),
        ("threads", threads, 0),
    ):
        if number < least:
            raise InputError(f"{what} is {number}; accepted: {least} or more")
    policy = configs.parse_versions(versions)
    if (reason := configs.why_not_dtypes(opened.io, chosen)) is not None:
        raise UnavailableError(reason)
    folder = Path(os.path.abspath(repository)) / name
    seen = Path(server_path) / name if server_path is not None else folder
    if chosen == "tensorrt":
        plan, batch = _tensorrt(opened, instances, max_batch, seen, version)
    else:
        copies = tuple(instances) or (Instances("cpu", 1),)
        plan, batch = _onnxruntime(opened, copies, max_batch, threads, custom_ops, seen, version)
    before = {"name": name, "backend": chosen, "max_batch_size": batch}
    plan.config = before | _tensors(opened, plan, batch) | plan.config
    if batch:
        delay = {"max_queue_delay_microseconds": max_delay} if max_delay else {}
        plan.config["dynamic_batching"] = delay
    elif max_delay:
        raise InputError("max_delay is for models whose requests are joined; this one has no max_batch")
    plan.config["model_transaction_policy"] = {"decoupled": False}
    plan.config["model_warmup"] = _warmup(opened, plan, batch)
    plan.config["version_policy"] = policy
    text = pbtxt.dump(plan.config)
    if (reason := pbtxt.why_not_parse()) is None:
        pbtxt.parse(text)
    else:
        plan.notes.append(f"{CONFIG} was not held against Triton's definitions: {reason}")
    write(folder, plan, text, version, force)
    return Entry(folder, version, text, batch, tuple(plan.notes), tuple(plan.arguments))


def _tensors(package: Package, plan: Plan, batch: int) -> dict[str, Any]:
    processor = package.processor
    outputs = [configs.tensor(spec, batch > 0) for spec in package.io.outputs]
    if isinstance(processor, ImageClassification) and processor.labels is not None and len(outputs) == 1:
        outputs[0]["label_filename"] = LABELS
        lines = (" ".join(label.split()) for label in processor.labels)
        plan.contents[LABELS] = "".join(f"{line}\n" for line in lines).encode()
    return {"input": [configs.tensor(spec, batch > 0) for spec in package.io.inputs], "output": outputs}


def _onnxruntime(
    package: Package,
    instances: Sequence[Instances],
    wanted: int | None,
    threads: int,
    custom_ops: bool,
    seen: Path,
    version: int,
) -> tuple[Plan, int]:
    """The ONNX file, and edgetx's kernels where every instance can use them."""
    from edgetx.ops import library
    from edgetx.runtimes.ort import BODIES_SINCE, KERNEL_PRECISIONS

    plan = Plan({"instance_group": [configs.instance_group(each, 0) for each in instances]})
    weights = package.model_path.with_name(f"{package.model_path.name}.data")
    if weights.is_file():
        # A model of several files is a folder of the file's name.
        plan.copies[f"{version}/model.onnx/model.onnx"] = package.model_path
        plan.copies[f"{version}/model.onnx/{weights.name}"] = weights
    else:
        plan.copies[f"{version}/model.onnx"] = package.model_path
    parameters = {"intra_op_thread_count": threads} if threads else {}
    if isinstance(package.processor, ImageRestoration):
        parameters["enable_mem_pattern"] = 0  # as edgetx's own sessions: pictures are of every size
    plan.config["parameters"] = [
        {"key": key, "value": {"string_value": str(value)}} for key, value in parameters.items()
    ]
    if package.manifest.operators:
        precision = package.manifest.precision
        if not custom_ops:
            reason: str | None = "they are switched off"
        elif any(each.kind == "gpu" for each in instances):
            reason = "they are for the CPU, and there are instances on GPUs"
        elif precision not in KERNEL_PRECISIONS:
            reason = f"they take {', '.join(KERNEL_PRECISIONS)}, the package computes in {precision}"
        else:
            reason = library.why_not()
        if reason is None:
            found = library.path()
            assert found is not None
            plan.copies[library.NAME] = Path(found)
            plan.config["model_operations"] = {"op_library_filename": [str(seen / library.NAME)]}
            plan.notes.append(
                f"the server loads the kernels from {seen / library.NAME}, built for {platform.system()} "
                f"on {platform.machine()}; give --server-path if it sees the repository elsewhere"
            )
        elif package.manifest.bodies == "none":
            raise UnavailableError(
                f"Triton's onnxruntime backend cannot run {package.name}: its operators "
                f"{', '.join(package.manifest.operators)} have no ONNX bodies, and edgetx's kernels cannot "
                f"be used: {reason}"
            )
        else:
            since = ".".join(map(str, BODIES_SINCE))
            plan.notes.append(
                f"operators run as standard ONNX without edgetx's kernels: {reason}; the server needs ONNX "
                f"Runtime {since} or newer"
            )
    return plan, configs.max_batch(package.io, wanted)


def _tensorrt(
    package: Package, instances: Sequence[Instances], wanted: int | None, seen: Path, version: int
) -> tuple[Plan, int]:
    """The engines, and the plugins where one needs them."""
    from edgetx.ops import plugin

    if any(each.kind == "cpu" for each in instances):
        raise InputError("TensorRT runs on GPUs alone; give --instances gpu:1")
    found = engines.find(package)
    plan = Plan({})
    plan.copies = {f"{version}/{name}": found.engines[key].plan for key, name in found.files.items()}
    copies = tuple(instances) or (Instances("gpu", 1),)
    plan.config["instance_group"] = [configs.instance_group(each, found.profiles) for each in copies]
    if engines.PORTABLE in found.files:
        plan.config["default_model_filename"] = found.files[engines.PORTABLE]
    plan.config["cc_model_filenames"] = [
        {"key": compute, "value": name}
        for compute, name in found.files.items()
        if compute != engines.PORTABLE
    ]
    records = [engine.record for engine in found.engines.values() if engine.record is not None]
    built = sorted({record.key.get("engine", "TensorRT") for record in records})
    plan.notes.append(f"the engines are of {', '.join(built)}; the server's TensorRT must be the same")
    if found.plugin:
        if (reason := plugin.why_not("tensorrt")) is not None:
            raise UnavailableError(f"the engines need edgetx's plugins: {reason}")
        library = plugin.library("tensorrt")
        plan.copies[library.name] = library
        kernels = library.parent / plugin.KERNELS
        if kernels.is_file():
            plan.copies[kernels.name] = kernels
        plan.arguments.append(f"--backend-config=tensorrt,plugins={seen / library.name}")
        plan.notes.append("TensorRT's plugins are loaded for the whole server, by its command line")
    return plan, configs.max_batch(package.io, wanted, found.max_batch)


def _warmup(package: Package, plan: Plan, batch: int) -> list[dict[str, Any]]:
    """Requests of the golden inputs, alone and as the largest batch; their bytes become files."""
    import numpy as np

    if package.is_stage:
        plan.notes.append("there is no warm-up: golden inputs are of the whole model, not of a stage")
        return []
    try:
        cases = package.golden()
    except PackageError as error:
        plan.notes.append(f"there is no warm-up: {error}")
        return []
    requests = []
    usable = [case for case in cases if all(array.size for array in case.inputs.values())]
    for index, case in enumerate(usable[:MOST_WARMUPS]):
        inputs = []
        for spec in package.io.inputs:
            array = case.inputs[spec.name][0] if batch else case.inputs[spec.name]
            file = f"{index}.{spec.name}"
            plan.contents[f"{WARMUP}/{file}"] = np.ascontiguousarray(array).tobytes()
            inputs.append(configs.warmup(spec, array.shape, file))
        # Of the same data Triton makes as many requests of one as `batch_size` says, and runs them together.
        requests += [
            {"name": f"golden {index}, batch of {size}", "batch_size": size, "inputs": inputs}
            for size in dict.fromkeys((1, batch or 1))
        ]
    return requests
