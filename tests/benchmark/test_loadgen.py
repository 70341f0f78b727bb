"""Scenarios of MLPerf LoadGen on a real engine that takes microseconds; nothing here asserts how fast."""

import csv
import json
import threading
import time

import msgspec
import pytest

import edgetx
from edgetx.benchmark import SCENARIOS, EngineSpec, Load, compare, state, tables
from edgetx.benchmark.loadgen import read_summary, read_trace, stacked
from edgetx.benchmark.sensors import linux, tegra
from edgetx.errors import BenchmarkError, InputError

pytest.importorskip("mlperf_loadgen", reason="pip install mlcommons-loadgen")

QUICK = {"threads": 1, "runs": 2, "rounds": 1, "warmup": 1}


def test_every_scenario(classifier):
    asked = [Load(scenario=name, seconds=0.1, queries=20) for name in SCENARIOS]
    report = edgetx.bench(classifier, loads=asked, **QUICK)
    found = {result.load.scenario: result for result in report.engines[0].loads}
    assert list(found) == list(SCENARIOS)
    for result in found.values():
        assert result.valid is None and result.duration_s > 0 and result.samples_per_s > 0
        assert result.latency.count == len(result.latencies_ns) >= 20
        assert result.loadgen and result.summary["Scenario"]
    single, multi = found["single-stream"], found["multi-stream"]
    assert single.score_unit == "ns" and single.score == pytest.approx(single.latency.p90)
    # LoadGen's own figure is the order statistic beside ours, which interpolates.
    assert float(single.summary["90.0th percentile latency (ns)"]) in single.latencies_ns
    assert multi.score == pytest.approx(multi.latency.p99)
    # A query of eight samples is done with its last sample.
    assert multi.latency.min > single.latency.min
    assert found["offline"].score_unit == "samples/s" and found["server"].score_unit == "queries/s"
    assert found["server"].within_bound in (True, False) and found["server"].load.qps > 0
    assert edgetx.benchmark.BenchReport.from_json(report.to_json()) == report


class Meter:
    """A RAPL zone whose counter grows by `WATTS`, as a kernel's would."""

    WATTS = 20.0

    def __init__(self, zone):
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0")
        (zone / "max_energy_range_uj").write_text("262143328850")
        self._file, self._start, self._end = zone / "energy_uj", time.monotonic(), threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run)

    def _write(self):
        draft = self._file.with_name("draft")
        draft.write_text(str(int((time.monotonic() - self._start) * self.WATTS * 1e6)))
        draft.replace(self._file)

    def _run(self):
        while not self._end.wait(0.002):
            self._write()

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


def test_energy_is_that_of_the_scenario(classifier, tmp_path, monkeypatch):
    """Constant power, so that the energy per sample tells which stretch of time it was taken over."""
    script = tmp_path / "tegrastats"
    script.write_text("#!/bin/sh\nwhile sleep 0.05; do echo 'RAM 1/7MB VDD_IN 5000mW/5000mW'; done\n")
    script.chmod(0o755)
    meters = [linux.LinuxSensor(tmp_path), tegra.TegraSensor([str(script)])]
    monkeypatch.setattr(state, "available", lambda: meters)
    asked = [Load(scenario=name, seconds=seconds, queries=1) for name, seconds in
             (("single-stream", 0.5), ("multi-stream", 1.5), ("offline", 0.5))]  # fmt: skip
    with Meter(tmp_path / "sys/class/powercap/intel-rapl:0"):
        report = edgetx.bench(classifier, loads=asked, **QUICK)
    for result in report.engines[0].loads:
        assert result.energy.keys() == {"rapl 0 package-0", "VDD_IN"}
        watts = {rail: joules * result.samples / result.duration_s for rail, joules in result.energy.items()}
        assert watts == pytest.approx({"rapl 0 package-0": Meter.WATTS, "VDD_IN": 5.0}, rel=0.2)
    header, rows = tables.loads(report)
    assert "energy per sample, VDD_IN" in header and all(len(row) == len(header) for row in rows)
    lines = list(csv.DictReader(report.to_csv().splitlines()))
    single = report.engines[0].loads[0]
    assert [line["scenario"] for line in lines] == ["closed loop", "single-stream", "multi-stream", "offline"]
    assert float(lines[1]["joules"]) == pytest.approx(sum(single.energy.values()))


def test_batches_go_through_the_engine_together(classifier):
    asked = [Load(scenario="offline", seconds=0.1, queries=16, batch=8)]
    (result,) = edgetx.bench(classifier, loads=asked, **QUICK).engines[0].loads
    # Samples of a batch are done together: eight by eight they share their moment, give or take a report.
    assert result.load.batch == 8 and result.latency.count >= 16


def test_mlperf_validity_is_loadgens(classifier):
    load = Load(scenario="single-stream", mlperf=True, seconds=0.5)
    (result,) = edgetx.bench(classifier, loads=[load], **QUICK).engines[0].loads
    assert result.valid is (result.summary["Result is"] == "VALID")
    assert result.summary["Min duration satisfied"] == "Yes"
    # Ten queries are too few for early stopping, which LoadGen then says.
    load = Load(scenario="multi-stream", mlperf=True, seconds=0.001, queries=10)
    (few,) = edgetx.bench(classifier, loads=[load], **QUICK).engines[0].loads
    assert few.valid is False and "Early stopping satisfied: no" in few.reasons


def test_a_server_that_cannot_keep_up_says_so(classifier):
    load = Load(scenario="server", seconds=0.2, queries=100, qps=2000, bound_ms=0.001)
    (result,) = edgetx.bench(classifier, loads=[load], **QUICK).engines[0].loads
    assert result.within_bound is False


def test_an_engine_that_fails_inside_of_a_query_is_named(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "tired.py").write_text(
        "import torch\n\nclass Tired(torch.nn.Module):\n    runs = 0\n    def forward(self, x):\n"
        "        Tired.runs += 1\n        assert Tired.runs < 300, 'enough'\n        return x\n\n"
        "def make():\n    return Tired()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import numpy as np

    from edgetx.benchmark import feeds

    feeds.save(tmp_path / "inputs.npz", {"x": np.ones((1, 3), np.float32)})
    spec = EngineSpec(
        name="tired",
        kind="torch",
        path="tired:make",
        shapes=("x=float32[batch,3]",),
        inputs=str(tmp_path / "inputs.npz"),
    )
    load = Load(scenario="single-stream", seconds=0.1, queries=600)
    with pytest.raises(BenchmarkError, match="failed in the scenario single-stream: AssertionError: enough"):
        compare([spec], loads=[load], **QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scenario": "burst"}, "unknown scenario 'burst'; accepted: single-stream, multi-stream, server"),
        ({"scenario": "server", "qps": 0}, "qps is 0"),
        ({"scenario": "single-stream", "batch": 2}, "single-stream has one per query"),
    ],
)
def test_wrong_scenarios(wrong, message):
    with pytest.raises(InputError, match=message):
        Load(**wrong)


def test_mlperf_asks_for_what_its_rules_ask():
    assert Load(scenario="server", mlperf=True).least() == (600, 1)
    assert Load(scenario="offline", mlperf=True).least() == (600, 24_576)
    assert Load(scenario="offline").least()[0] < 10


def test_samples_of_different_shapes_are_not_stacked():
    import numpy as np

    assert stacked([{"x": np.ones((1, 2))}, {"x": np.zeros((2, 2))}])["x"].shape == (3, 2)
    with pytest.raises(InputError, match="--batch 1"):
        stacked([{"x": np.ones((1, 2))}, {"x": np.zeros((1, 3))}])


def test_logs(tmp_path):
    (tmp_path / "summary").write_text(
        "Scenario : Offline\nResult is : INVALID\n====\n  Min queries satisfied : No\n"
    )
    assert read_summary(tmp_path / "summary") == {
        "Scenario": "Offline",
        "Result is": "INVALID",
        "Min queries satisfied": "No",
    }
    line = (
        '{"name":"Sample","cat":"default","ph":"b","pid":1,"id":0,"ts":1.5,"args":'
        '{"sample_seq":3,"query_seq":2,"sample_idx":1,"issue_start_ns":-16,"complete_ns":5540}},'
    )
    (tmp_path / "trace").write_text(line + "\n" + json.dumps({"name": "Wait"}))
    assert read_trace(tmp_path / "trace") == [(2, 3, 5540)]


def test_loads_travel_as_dictionaries(classifier):
    plain = msgspec.to_builtins(Load(scenario="single-stream", seconds=0.05, queries=5))
    assert edgetx.bench(classifier, loads=[plain], **QUICK).engines[0].loads[0].load.queries == 5
