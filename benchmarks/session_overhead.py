"""What `Session.run` costs over a bare ONNX Runtime call, NaN check included.

The model is trivial (a mean over 1x3x224x224 float32), so the difference of the two medians is the
overhead. The calls alternate, in random order within each pair, so that both meet the same machine.

    python benchmarks/session_overhead.py [--pairs 5000]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from edgetx import runtimes
from edgetx.core import IOSpec, SymbolRange, Target, TensorSpec
from edgetx.package import IOEntry, Manifest, Package, create

RESULTS = Path(__file__).parent / "results" / "session_overhead.json"
LIMIT_US = 30.0


def write_package(folder: Path) -> Package:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    io = IOSpec(
        inputs=(TensorSpec("image", "float32", ("batch", 3, 224, 224)),),
        outputs=(TensorSpec("mean", "float32", ("batch",)),),
        symbols={"batch": SymbolRange()},
    )
    with create(folder) as draft:
        draft.model_path.write_bytes(model.SerializeToString())
        draft.seal(
            Manifest(
                name="mean",
                edgetx_version="benchmark",
                created="",
                architecture="generic",
                source="benchmark",
                weights="random",
                io=IOEntry.of(io),
                opset=20,
            )
        )
        return draft.publish()


def microseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    feeds = {"image": image}
    with tempfile.TemporaryDirectory() as folder:
        package = write_package(Path(folder) / "package")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        bare = onnxruntime.InferenceSession(
            str(package.model_path), options, providers=["CPUExecutionProvider"]
        )
        with runtimes.load(package, target=Target(threads=1)) as session:
            calls: dict[str, Callable[[], object]] = {
                "session": lambda: session.run(feeds),
                "bare": lambda: bare.run(None, feeds),
            }
            times: dict[str, list[float]] = {name: [] for name in calls}
            order = list(calls)
            shuffle = random.Random(0).shuffle
            for pair in range(arguments.pairs + 200):
                shuffle(order)
                for name in order:
                    took = microseconds(calls[name])
                    if pair >= 200:
                        times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    overhead = medians["session"] - medians["bare"]
    result = {
        "what": "Session.run over InferenceSession.run, ReduceMean of float32[1,3,224,224], 1 thread",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "pairs": arguments.pairs,
        "session_median_us": round(medians["session"], 2),
        "bare_median_us": round(medians["bare"], 2),
        "overhead_us": round(overhead, 2),
        "limit_us": LIMIT_US,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"Session.run {medians['session']:.1f} us, bare {medians['bare']:.1f} us, "
        f"overhead {overhead:.1f} us (limit {LIMIT_US:.0f})"
    )
    return 0 if overhead < LIMIT_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
