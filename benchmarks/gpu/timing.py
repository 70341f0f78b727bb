"""How long work takes on a device, and what a device's memory can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Bench:
    """A device, and how often things are repeated on it.

    Attributes:
        device: `cuda`, or `cpu` for a self-check whose numbers mean nothing.
        replays: measurements of a kernel, each of many launches.
        runs: measurements of a model.
        warm_up: runs before them.
    """

    device: torch.device
    replays: int = 30
    runs: int = 50
    warm_up: int = 5

    @property
    def real(self) -> bool:
        """Whether this is a GPU."""
        return self.device.type == "cuda"

    def cache_bytes(self) -> int:
        """The size of the last cache."""
        return int(torch.cuda.get_device_properties(self.device).L2_cache_size) if self.real else 1

    def compiled(self, function: Any, mode: str) -> Any:
        """`torch.compile`d; the self-check only traces."""
        if not self.real:
            return torch.compile(function, backend="aot_eager", dynamic=False)
        return torch.compile(function, mode=mode, dynamic=False)

    def per_call(self, calls: Sequence[Callable[[], Any]]) -> float:
        """Seconds of one call: the median replay of a CUDA graph of all `calls`, over their number.

        Calls on different memory, together larger than the cache, find nothing of it there; and a graph
        leaves out the host, which takes longer to launch a small kernel than the kernel itself.
        """
        for call in calls[:2]:
            call()
        if not self.real:
            return self._host(calls[0])
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return self._events(graph.replay, self.replays) / len(calls)

    def latency(self, run: Callable[[], Any]) -> float:
        """Seconds of one run as a caller sees it: the median of runs that are each waited for."""
        for _ in range(self.warm_up if self.real else 1):
            run()
        return self._events(run, self.runs) if self.real else self._host(run)

    def _events(self, work: Callable[[], Any], repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)

    def _host(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def copy_bandwidth(bench: Bench) -> float:
    """Bytes per second of a copy on the device, read and written bytes both counted."""
    size = max(8 * bench.cache_bytes(), 1 << 20)
    source = torch.zeros(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    return 2 * size / bench.per_call([lambda: target.copy_(source)] * 4)
