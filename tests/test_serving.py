"""Sessions in servers: joined requests, asyncio, threads, forked and spawned processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetx
from edgetx.core import IOSpec, Session, SymbolRange, TensorSpec


def image(seed: int, batch: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(batch, 3, 8, 8)).astype(np.float32)


class Counting(Session):
    """Another session, which also notes the size of every run and may be held up or fail."""

    def __init__(self, session: Session) -> None:
        self.session, self.io, self.processor = session, session.io, session.processor
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.largest: int | None = None

    def run(self, feeds: Any) -> dict[str, Any]:
        self.go.wait()
        size = len(feeds["image"])
        if self.largest is not None and size > self.largest:
            raise edgetx.EdgetxError("out of memory")
        self.sizes.append(size)
        return self.session.run(feeds)

    def describe(self) -> dict[str, str]:
        return self.session.describe()


@pytest.fixture
def session(classifier: Path) -> Any:
    with edgetx.load(classifier, target=edgetx.Target(threads=1)) as opened:
        yield Counting(opened)


def test_requests_are_joined(session: Counting) -> None:
    session.go.clear()
    with edgetx.Batcher(session, max_batch=4, max_delay=0.05) as batcher:
        futures = [batcher.submit({"image": image(seed)}) for seed in range(9)]
        session.go.set()
        answers = [each.result(timeout=30)["logits"] for each in futures]
    assert session.sizes == [4, 4, 1]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, session.session.run({"image": image(seed)})["logits"])


def test_requests_of_several_samples(session: Counting) -> None:
    session.go.clear()
    with edgetx.Batcher(session, max_batch=4, max_delay=10) as batcher:
        futures = [batcher.submit({"image": image(seed, seed)}) for seed in (3, 2, 1, 4)]
        session.go.set()
        # Three do not fit beside two, and the last is answered when the batcher closes.
        assert [each.result(timeout=30)["logits"].shape[0] for each in futures[:3]] == [3, 2, 1]
    assert futures[3].result()["logits"].shape == (4, 3)
    assert session.sizes == [3, 3, 4]


def test_nobody_waits_longer_than_the_delay(session: Counting) -> None:
    with edgetx.Batcher(session, max_batch=1000, max_delay=0.05) as batcher:
        start = time.monotonic()
        assert batcher.run({"image": image(0)})["logits"].shape == (1, 3)
        assert time.monotonic() - start < 10  # of a machine that is busy with other work
    assert session.sizes == [1]


def test_a_wrong_request_fails_alone(session: Counting) -> None:
    session.go.clear()
    with edgetx.Batcher(session, max_batch=4, max_delay=0.2) as batcher:
        good = batcher.submit({"image": image(0)})
        with pytest.raises(edgetx.EdgetxError, match="image"):
            batcher.submit({"image": image(0)[:, :2]})
        with pytest.raises(edgetx.EdgetxError, match="the request has 5 samples, a run takes 4"):
            batcher.submit({"image": image(0, 5)})
        session.go.set()
        assert good.result(timeout=30)["logits"].shape == (1, 3)


def test_a_joint_run_that_fails_is_run_one_by_one(session: Counting) -> None:
    session.largest = 1
    session.go.clear()
    with edgetx.Batcher(session, max_batch=4, max_delay=0.05) as batcher:
        futures = [batcher.submit({"image": image(seed)}) for seed in range(3)]
        pair = batcher.submit({"image": image(9, 2)})
        session.go.set()
        for seed, each in enumerate(futures):
            expected = session.session.run({"image": image(seed)})["logits"]
            np.testing.assert_array_equal(each.result(timeout=30)["logits"], expected)
        with pytest.raises(edgetx.EdgetxError, match="out of memory"):
            pair.result(timeout=30)


def test_cancelled_full_and_closed(session: Counting) -> None:
    session.go.clear()
    batcher = edgetx.Batcher(session, max_batch=2, max_delay=10, max_waiting=3)
    running = [batcher.submit({"image": image(seed)}) for seed in range(2)]
    while batcher._samples:  # taken by the worker, which is held up in its run
        time.sleep(0.001)
    waiting = [batcher.submit({"image": image(seed)}) for seed in range(3)]
    with pytest.raises(edgetx.EdgetxError, match="3 samples are waiting and 3 may; try again later"):
        batcher.submit({"image": image(0)})
    assert waiting[1].cancel()
    session.go.set()
    batcher.close()
    assert all(each.done() for each in (*running, waiting[0], waiting[2]))
    assert session.sizes == [2, 1, 1]
    with pytest.raises(edgetx.EdgetxError, match="the batcher is closed"):
        batcher.submit({"image": image(0)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; accepted: 1 or more"),
        ({"max_waiting": -1}, "max_waiting is -1"),
        ({"max_delay": float("nan")}, "max_delay is nan; accepted: 0 to 3600 seconds"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str, session: Counting) -> None:
    with pytest.raises(edgetx.EdgetxError, match=message):
        edgetx.Batcher(session, **settings)


def test_models_without_a_batch_are_refused() -> None:
    from edgetx.batching import why_not

    def io(inputs: Any, outputs: Any, **symbols: SymbolRange) -> IOSpec:
        return IOSpec((TensorSpec("x", "float32", inputs),), (TensorSpec("y", "float32", outputs),), symbols)

    assert why_not(io(("batch", 3), ("batch",)), 8) is None
    assert "the first dimension of x=float32[1,3] is not the batch" in str(why_not(io((1, 3), (1,))))
    assert "y=float32[points,3] is not 'batch'" in str(why_not(io(("batch", 3), ("points", 3))))
    assert "is not 'batch'" in str(why_not(io(("batch", 3), ())))
    limited = io(("batch", 3), ("batch",), batch=SymbolRange(max=4))
    assert why_not(limited, 8) == "max_batch: batch 8 is outside 1 to 4"


def test_asyncio(session: Counting) -> None:
    async def serve() -> list[Any]:
        with edgetx.Batcher(session, max_batch=4, max_delay=0.02) as batcher:
            joined = [batcher.run_async({"image": image(seed)}) for seed in range(4)]
            alone = session.session.run_async({"image": image(4)})
            return await asyncio.gather(*joined, alone)

    for seed, answer in enumerate(asyncio.run(serve())):
        expected = session.session.run({"image": image(seed)})["logits"]
        np.testing.assert_array_equal(answer["logits"], expected)


def test_warm_up(session: Counting) -> None:
    assert session.warm_up(runs=3) > 0
    assert session.sizes == [1, 1, 1]
    assert session.warm_up({"image": image(0, 5)}, runs=1) > 0
    with pytest.raises(edgetx.EdgetxError, match="runs is 0"):
        session.warm_up(runs=0)


def test_eight_threads(session: Counting) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: session.session.run({"image": image(seed)}), range(64)))
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["logits"], session.session.run({"image": image(seed)})["logits"])


def _logits(session: Session, seed: int) -> Any:
    return session.run({"image": image(seed)})["logits"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_runs_a_session_of_its_parent(classifier: Path) -> None:
    with edgetx.load(classifier, target=edgetx.Target(threads=2)) as session:
        expected = _logits(session, 0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # no exit handlers of pytest: only what a worker of a server would do
            try:
                os.write(write, _logits(session, 0).tobytes())
                session.close()
            finally:
                os._exit(0)
        os.close(write)
        answer = b""
        deadline = time.monotonic() + 120
        while len(answer) < expected.nbytes and time.monotonic() < deadline:
            block = os.read(read, 1 << 16)
            if not block:
                break
            answer += block
        os.waitpid(child, 0)
        assert answer == expected.tobytes()
        np.testing.assert_array_equal(_logits(session, 0), expected)


def test_a_spawned_process_gets_a_session(classifier: Path) -> None:
    with edgetx.load(classifier, target=edgetx.Target(threads=1)) as session:
        expected = _logits(session, 3)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            np.testing.assert_array_equal(pool.apply(_run_pickled, (session, image(3))), expected)


def _run_pickled(session: Session, pixels: Any) -> Any:
    return session.run({"image": pixels})["logits"]
