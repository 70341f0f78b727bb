"""What the machine can do at most, measured on the spot: matrix products and copies, on the CPU or a GPU."""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from edgetx.benchmark.profiles import Rates
from edgetx.benchmark.specs import EngineSpec

MATRIX = 1024
COPIED = 128 * 2**20
REPEATS = 5

GPU_MATRIX = 4096
GPU_COPIED = 512 * 2**20
"""Large enough that the second-level caches of today's GPUs (up to 126 MB) hold a small part."""
GPU_RUNS = 10
"""Products and copies between two of the GPU's own time stamps."""


def measure(spec: EngineSpec) -> tuple[Rates | None, str | None]:
    """The rates of what `spec` runs on, or None and why there are none."""
    if spec.device == "cpu":
        return on_cpu(spec.threads or 1), None
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return None, f"no roofline: a GPU's rates are measured with torch ({error}); pip install torch"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "finds no GPU" if built else f"{torch.__version__} was built without CUDA"
        return None, f"no roofline: a GPU's rates are measured with torch, and torch {why}"
    return on_gpu(torch, spec.device, spec.precision), None


def on_cpu(threads: int) -> Rates:
    """Rates of float32 matrix products and of copies, best of 5, with numpy.

    The product of two 1024x1024 matrices runs on numpy's BLAS, whose threads the environment of the worker
    sets. Copies of 128 MiB, one part per thread, count the bytes read and the bytes written.
    """
    import numpy as np

    random = np.random.default_rng(0)
    left, right = (random.random((MATRIX, MATRIX), np.float32) for _ in range(2))
    out = np.empty_like(left)
    matrix = min(_seconds(lambda: np.matmul(left, right, out=out)) for _ in range(REPEATS + 1))
    source, target = (np.ones(COPIED, np.uint8) for _ in range(2))
    bounds = [COPIED * index // threads for index in range(threads + 1)]

    def copy() -> None:
        workers = [
            threading.Thread(target=np.copyto, args=(target[low:high], source[low:high]))
            for low, high in itertools.pairwise(bounds)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    copied = min(_seconds(copy) for _ in range(REPEATS + 1))
    return Rates(
        flops=2 * MATRIX**3 / matrix,
        bandwidth=2 * COPIED / copied,
        how=f"float32 products of {MATRIX}x{MATRIX} by numpy's BLAS and copies of {COPIED >> 20} MiB, "
        f"{threads} threads, best of {REPEATS + 1}",
    )


def _seconds(do: Callable[[], Any]) -> float:
    start = perf_counter()
    do()
    return perf_counter() - start


def product_dtype(precision: str) -> str:
    """The type of the products that bound a package of this precision on a GPU.

    Our engines compute float32 in float32, not in TF32. Quantized packages are held against float16, since
    what is not quantized runs in it; a roofline above 100 % is then an int8 product's.
    """
    return precision if precision in ("float32", "float16", "bfloat16") else "float16"


def on_gpu(
    torch: Any, device: str, precision: str, matrix: int = GPU_MATRIX, copied: int = GPU_COPIED
) -> Rates:
    """The same of a GPU, with torch's products (cuBLAS) and copies; the GPU's own clock takes the time."""
    kind = product_dtype(precision)
    dtype = getattr(torch, kind)
    left, right = (torch.randn(matrix, matrix, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    source, target = (torch.ones(copied, dtype=torch.uint8, device=device) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        product_s = _gpu_seconds(torch, device, lambda: torch.matmul(left, right, out=out))
        copy_s = _gpu_seconds(torch, device, lambda: target.copy_(source))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return Rates(
        flops=2 * matrix**3 / product_s,
        bandwidth=2 * copied / copy_s,
        how=f"{kind} products of {matrix}x{matrix} and copies of {copied >> 20} MiB by torch "
        f"{torch.__version__} on {torch.cuda.get_device_name(device)}, best of {REPEATS} times {GPU_RUNS}",
    )


def _gpu_seconds(torch: Any, device: str, do: Callable[[], Any]) -> float:
    """One call, on the GPU's clock: the best mean of `GPU_RUNS` calls, after as many uncounted."""
    with torch.cuda.device(device):
        for _ in range(GPU_RUNS):
            do()
        best = float("inf")
        for _ in range(REPEATS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(GPU_RUNS):
                do()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1e3 / GPU_RUNS)
    return best
