"""Requests of many callers, run together: `Batcher`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgetx.core import Feeds, IOSpec, Session
from edgetx.errors import EdgetxError, InputError

if TYPE_CHECKING:
    import numpy as np

Outputs = dict[str, Any]


@dataclass
class _Request:
    feeds: Mapping[str, np.ndarray[Any, Any]]
    size: int
    kind: tuple[Any, ...]  # requests of one kind can be joined
    due: float
    future: Future[Outputs]


class Batcher:
    """Joins requests along the batch dimension, so that a server answers more of them in the same time.

        with edgetx.load("swin_tiny.edgetx") as session, Batcher(session, max_batch=8) as batcher:
            logits = batcher.run({"image": image})["logits"]  # from any thread
            outputs = await batcher.run_async({"image": image})

    A run starts when `max_batch` samples wait, or when the oldest request has waited `max_delay`. Requests
    of other sizes than the oldest one's wait for a run of their own. A request is checked when it is
    submitted, so that a wrong one fails alone; where a joint run fails, its requests are run one by one.

    Args:
        session: an opened package; every input and output has the same symbol as its first dimension.
        max_batch: samples in a run, all requests together.
        max_delay: seconds that a request waits for others.
        max_waiting: samples that may wait; further requests are refused at once.

    Raises:
        InputError: a limit that is not positive, or a model that cannot be batched; says which tensor.
    """

    def __init__(
        self, session: Session, *, max_batch: int = 8, max_delay: float = 0.002, max_waiting: int = 1024
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_waiting", max_waiting)):
            if value < 1:
                raise InputError(f"{name} is {value}; accepted: 1 or more")
        if not 0 <= max_delay < 3600:
            raise InputError(f"max_delay is {max_delay}; accepted: 0 to 3600 seconds")
        if (reason := why_not(session.io, max_batch)) is not None:
            raise InputError(reason)
        self._session = session
        self._max_batch, self._max_delay, self._max_waiting = max_batch, max_delay, max_waiting
        self._waiting: deque[_Request] = deque()
        self._samples = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="edgetx-batcher", daemon=True)
        self._thread.start()

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Queue a request of one sample or several; the result is a dict of arrays as `Session.run` gives.

        Raises:
            InputError: see `IOSpec.check`; or more samples than `max_batch`.
            EdgetxError: the batcher is closed, or `max_waiting` samples wait already.
        """
        io = self._session.io
        io.check(feeds)
        arrays = {spec.name: feeds[spec.name] for spec in io.inputs}
        size = int(next(iter(arrays.values())).shape[0])
        if size > self._max_batch:
            raise InputError(
                f"the request has {size} samples, a run takes {self._max_batch}; split it, or raise max_batch"
            )
        kind = tuple(array.shape[1:] for array in arrays.values())
        request = _Request(arrays, size, kind, monotonic() + self._max_delay, Future())
        with self._changed:
            if self._closed:
                raise EdgetxError("the batcher is closed; make a new one")
            if self._samples + size > self._max_waiting:
                raise EdgetxError(
                    f"{self._samples} samples are waiting and {self._max_waiting} may; try again later, "
                    "or raise max_waiting"
                )
            self._waiting.append(request)
            self._samples += size
            self._changed.notify()
        return request.future

    def run(self, feeds: Feeds) -> Outputs:
        """Submit a request and wait for its outputs; see `submit`."""
        return self.submit(feeds).result()

    async def run_async(self, feeds: Feeds) -> Outputs:
        """Submit a request and await its outputs; see `submit`. Cancelled before it runs, it is dropped."""
        import asyncio

        return await asyncio.wrap_future(self.submit(feeds))

    def close(self) -> None:
        """Answer what waits, then stop; the session stays open."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            # Whoever was cancelled meanwhile is left out.
            running = [each for each in batch if each.future.set_running_or_notify_cancel()]
            if running:
                self._run(running)

    def _next(self) -> list[_Request] | None:
        """The next run's requests, when it is time for it; None after the last one."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                batch, full = self._candidates()
                left = self._waiting[0].due - monotonic()
                if full or left <= 0 or self._closed:
                    taken = set(map(id, batch))
                    self._waiting = deque(each for each in self._waiting if id(each) not in taken)
                    self._samples -= sum(each.size for each in batch)
                    return batch
                self._changed.wait(left)

    def _candidates(self) -> tuple[list[_Request], bool]:
        """The oldest request and those after it that can be joined to it; and whether no more of them fit."""
        batch: list[_Request] = []
        size = 0
        for request in self._waiting:
            if request.kind != self._waiting[0].kind:
                continue
            if size + request.size > self._max_batch:
                return batch, True
            batch.append(request)
            size += request.size
        return batch, size == self._max_batch

    def _run(self, batch: list[_Request]) -> None:
        try:
            answers = self._joint(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for request in batch:
                self._run([request])
            return
        for request, answer in zip(batch, answers, strict=True):
            request.future.set_result(answer)

    def _joint(self, batch: list[_Request]) -> list[Outputs]:
        import numpy as np

        if len(batch) == 1:
            return [self._session.run(batch[0].feeds)]
        names = batch[0].feeds
        outputs = self._session.run(
            {name: np.concatenate([each.feeds[name] for each in batch]) for name in names}
        )
        answers: list[Outputs] = []
        start = 0
        for request in batch:
            stop = start + request.size
            # Copies, so that one caller does not keep everybody's outputs alive.
            answers.append({name: array[start:stop].copy() for name, array in outputs.items()})
            start = stop
        return answers


def why_not(io: IOSpec, max_batch: int = 1) -> str | None:
    """None if requests of a model can be joined into runs of `max_batch` samples, else the reason."""
    batch = io.inputs[0].shape[0] if io.inputs and io.inputs[0].shape else None
    for spec in (*io.inputs, *io.outputs):
        if not spec.shape or not isinstance(spec.shape[0], str) or spec.shape[0] != batch:
            return (
                f"requests of this model cannot be joined: the first dimension of {spec} is not "
                f"{'the batch' if not isinstance(batch, str) else repr(batch)}; run them one by one"
            )
    if isinstance(batch, str) and batch in io.symbols:
        return (
            None
            if (reason := io.symbols[batch].why_not(max_batch)) is None
            else f"max_batch: {batch} {reason}"
        )
    return None
