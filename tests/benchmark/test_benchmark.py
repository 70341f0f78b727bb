"""Real workers on tiny ONNX files; nothing here asserts how long anything takes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgetx
from edgetx.benchmark import BenchReport, EngineSpec, compare, feeds, runner, significance
from edgetx.core import TensorSpec
from edgetx.errors import BenchmarkError, InputError
from tests.processes import descendants, running

QUICK = {"threads": 1, "runs": 4, "rounds": 2, "warmup": 1}


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(runner, "WARMUP_MAX_RUNS", 12)


@pytest.fixture
def scale(tmp_path):
    """Makes `<name>.onnx`, y = factor * x, and returns its engine."""
    feeds.save(tmp_path / "inputs.npz", {"x": np.ones((2, 3), np.float32)})

    def make(name, factor, kind="onnx", rank=2):
        dims = ["batch", 3, 1][:rank]
        graph = helper.make_graph(
            [helper.make_node("Mul", [f"{name}_in", "factor"], ["y"])],
            "scale",
            [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
            [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
        )
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return EngineSpec(name=name, kind=kind, path=str(path), inputs=str(tmp_path / "inputs.npz"))

    return make


def test_compare_measures_every_engine_and_their_outputs(scale):
    steps = []
    report = compare([scale("one", 1.0), scale("two", 2.5)], progress=steps.append, **QUICK)
    assert [engine.name for engine in report.engines] == ["one", "two"]
    assert report.baseline == "one" and report["one"].speedup == 1
    for engine in report.engines:
        assert [len(each) for each in engine.rounds_ns] == [2, 2]
        assert engine.latency.count == 4 and engine.latency.min > 0
        assert engine.load_ns > 0 and engine.first_ns > 0 and engine.warmup_runs >= 1
        assert engine.peak_bytes is not None and engine.peak_bytes > 1 << 20
        assert engine.file_bytes == Path(engine.path).stat().st_size
        assert engine.version.startswith("onnxruntime ")
        low, high = engine.speedup_range
        assert low <= high
    assert report["one"].difference == 0
    assert report["two"].difference == 1.5
    assert report.scenario.inputs == {"one_in": "float32[2,3]"}
    assert report.scenario.threads == 1
    assert "loading one" in steps and "measuring, round 2 of 2" in steps


def test_ratio_is_baseline_over_engine(scale):
    report = compare([scale("one", 1.0), scale("two", 1.0)], baseline="two", **QUICK)
    expected = report["two"].latency.median / report["one"].latency.median
    assert report["one"].speedup == pytest.approx(expected)
    assert report["two"].speedup == 1


def test_time_budget_gives_whole_rounds(scale):
    report = compare([scale("one", 1.0)], threads=1, runs=4, rounds=2, warmup=0, seconds=0.05)
    assert report.scenario.rounds == len(report["one"].rounds_ns) >= 1
    assert report.scenario.runs == report["one"].latency.count


def test_openvino_agrees(scale):
    pytest.importorskip("openvino")
    report = compare([scale("one", 3.0), scale("ov", 3.0, kind="openvino")], **QUICK)
    assert report["ov"].version.startswith("openvino ")
    assert report["ov"].difference == 0


def test_torch_engine_runs_a_source(scale, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "doubling.py").write_text(
        "import torch\n\nclass Double(torch.nn.Module):\n    def forward(self, x):\n        return 2 * x\n\n"
        "def make():\n    return Double()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = EngineSpec(
        name="eager",
        kind="torch",
        path="doubling:make",
        shapes=("x=float32[batch,3]",),
        inputs=str(tmp_path / "inputs.npz"),
    )
    report = compare([scale("two", 2.0), spec], **QUICK)
    assert report["eager"].difference == 0
    assert report["eager"].file_bytes is None


def test_package_against_its_own_graph(classifier):
    report = edgetx.bench(classifier, baseline=classifier / "model.onnx", **QUICK)
    ours, stock = report.engines
    assert (ours.name, ours.kind) == ("classifier", "package")
    assert (stock.name, stock.kind) == ("baseline (model.onnx)", "onnx")
    assert report.baseline == stock.name
    assert ours.difference == 0
    assert ours.ran_on["device"] == "cpu" and ours.ran_on["threads"] == "1"


def test_several_packages_of_one_name(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "other" / "classifier")
    report = edgetx.bench([edgetx.Package.open(classifier), copy], **QUICK)
    assert [engine.name for engine in report.engines] == ["classifier#1", "classifier#2"]


def test_a_given_image_replaces_the_golden_input(classifier, photograph):
    report = edgetx.bench(classifier, baseline=classifier / "model.onnx", inputs=[photograph], **QUICK)
    assert report.engines[0].difference == 0
    assert report.scenario.inputs == {"image": "float32[1,3,8,8]"}


def test_several_inputs_are_measured_one_by_one(classifier, tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for index, color in enumerate(("red", "blue", "green")):
        Image.new("RGB", (8 + index, 9), color).save(tmp_path / "pictures" / f"{color}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("none")
    report = edgetx.bench(
        classifier, baseline=classifier / "model.onnx", inputs=[tmp_path / "pictures"], **QUICK
    )
    ours, stock = report.engines
    assert [Path(each.name).name for each in ours.inputs] == ["blue.png", "green.png", "red.png"]
    assert len(stock.inputs) == 3 and ours.difference == 0
    for engine in report.engines:
        assert [len(each) for each in engine.rounds_ns] == [6, 6]
        assert [each.latency.count for each in engine.inputs] == [4, 4, 4]
        assert all(each.shapes == {"image": [1, 3, 8, 8]} for each in engine.inputs)
    assert "4 runs on each of 3 inputs in 2 alternating rounds" in report.conditions()
    header, rows = report.inputs_table()
    assert header == ["input", "sizes", "classifier", "baseline (model.onnx)"]
    assert rows[0][:2] == ["blue.png", "image[1,3,8,8]"]
    assert BenchReport.from_json(report.to_json()) == report


def test_inputs_of_several_sizes(scale, tmp_path):
    feeds.save(tmp_path / "more.npz", {"x": np.ones((5, 3), np.float32)})
    spec = scale("one", 1.0)
    both = EngineSpec(
        name="one", kind="onnx", path=spec.path, inputs=(spec.inputs, str(tmp_path / "more.npz"))
    )
    report = compare([both], **QUICK)
    assert report.scenario.inputs == {"one_in": "float32[2..5,3]"}
    assert [each.shapes for each in report["one"].inputs] == [{"one_in": [2, 3]}, {"one_in": [5, 3]}]


def test_inputs_that_are_not_there(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "none.png", "does not exist"), (tmp_path / "empty", "nothing to read")):
        with pytest.raises(InputError, match=message):
            edgetx.bench(classifier, inputs=[path], **QUICK)


def test_report_survives_json(scale):
    report = compare([scale("one", 1.0)], **QUICK)
    assert BenchReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["schema"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"schema": 3}, "has schema 3, this edgetx reads 1 to 2"),
        (lambda data: data | {"engines": [{}]}, r"engines\[0\]"),
        (lambda data: {}, "schema"),
    ],
)
def test_reports_of_another_form_are_refused(scale, change, message):
    data = json.loads(compare([scale("one", 1.0)], **QUICK).to_json())
    with pytest.raises(InputError, match=message):
        BenchReport.from_json(json.dumps(change(data)))


def test_table_and_markdown(scale):
    report = compare([scale("one", 1.0), scale("two", 2.0)], **QUICK)
    header, rows = report.to_table()
    assert all(len(row) == len(header) for row in rows)
    text = report.to_markdown()
    assert "| one |" in text and "baseline" in text and "1.0e+00" in text and "2 alternating rounds" in text


def test_outputs_of_another_shape_are_not_compared(scale):
    report = compare([scale("one", 1.0), scale("flat", 1.0)], **QUICK)
    assert report["flat"].difference == 0
    other = scale("flat", 1.0)
    feeds.save(other.inputs.replace("inputs", "wide"), {"x": np.ones((5, 3), np.float32)})
    wide = EngineSpec(
        name="wide", kind="onnx", path=other.path, inputs=other.inputs.replace("inputs", "wide")
    )
    assert compare([scale("one", 1.0), wide], **QUICK)["wide"].difference is None


def test_a_failing_engine_is_named(scale):
    with pytest.raises(BenchmarkError, match=r"'gone' failed during load: .*gone\.onnx"):
        spec = scale("gone", 1.0)
        Path(spec.path).unlink()
        compare([spec], **QUICK)


def test_a_dead_worker_shows_the_end_of_its_stderr(scale, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "onnxruntime.py").write_text(
        "import os, sys\nsys.stderr.write('the engine fell over')\nsys.stderr.flush()\nos.abort()\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(
        BenchmarkError, match=r"'one' was killed by signal 6 during load; .*the engine fell over"
    ):
        compare([scale("one", 1.0)], **QUICK)


def test_what_an_engine_prints_does_not_disturb_it(scale, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "chatty.py").write_text(
        "import os, torch\n\nclass Chatty(torch.nn.Module):\n    def forward(self, x):\n"
        "        print('hello'); os.write(1, b'{}\\n')\n        return x\n\n"
        "def make():\n    return Chatty()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = EngineSpec(
        name="eager",
        kind="torch",
        path="chatty:make",
        shapes=("x=float32[batch,3]",),
        inputs=scale("one", 1.0).inputs,
    )
    assert compare([spec], **QUICK)["eager"].latency.count == 4


@pytest.mark.parametrize(
    "options",
    [{"runs": 0}, {"rounds": 0}, {"warmup": -1}, {"threads": -1}, {"seconds": 0}, {"baseline": "x"}],
)
def test_options_out_of_range(scale, options):
    with pytest.raises(InputError):
        compare([scale("one", 1.0)], **{**QUICK, **options})


def test_engines_need_unique_names(scale):
    with pytest.raises(InputError, match="unique"):
        compare([scale("one", 1.0)] * 2, **QUICK)
    with pytest.raises(InputError, match="one engine or more"):
        compare([], **QUICK)


def test_missing_baseline_file(classifier):
    with pytest.raises(InputError, match=r"nowhere\.onnx.* does not exist"):
        edgetx.bench(classifier, baseline="nowhere.onnx", **QUICK)


def test_feeds_keep_names_order_and_types(tmp_path):
    given = {"file": np.arange(3), "b:c": np.ones((2, 0), np.float16), "a": np.array(True)}
    feeds.save(tmp_path / "x.npz", given)
    read = feeds.load(tmp_path / "x.npz")
    assert list(read) == list(given)
    for name, array in given.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_feeds_that_npz_cannot_hold(tmp_path):
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    with pytest.raises(InputError, match="bfloat16"):
        feeds.save(tmp_path / "x.npz", {"x": np.ones(2, dtype)})


def test_feeds_are_matched_by_name_then_by_position():
    assert feeds.rename({"a": 1, "b": 2}, ["b", "a"]) == {"b": 2, "a": 1}
    assert feeds.rename({"a": 1, "b": 2}, ["x", "y"]) == {"x": 1, "y": 2}
    with pytest.raises(InputError, match="were given"):
        feeds.rename({"a": 1}, ["x", "y"])


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers in /proc")
def test_ctrl_c_leaves_no_worker_behind(scale):
    spec = scale("one", 1.0)
    code = (
        "from edgetx.benchmark import EngineSpec, compare\n"
        f"spec = EngineSpec(name='one', kind='onnx', path={spec.path!r}, inputs={spec.inputs!r})\n"
        "compare([spec], threads=1, seconds=600, progress=lambda step: print(step, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        while "measuring" not in parent.stdout.readline():
            assert parent.poll() is None
        workers = descendants(parent.pid)
        assert workers
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=60) != 0
    finally:
        parent.kill()
        parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def test_the_worker_imports_no_framework():
    code = (
        "import sys, edgetx.benchmark.worker\n"
        "names = 'numpy', 'torch', 'onnx', 'onnxruntime', 'openvino'\n"
        "print([name for name in names if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_reports_of_the_first_schema_are_read(scale):
    report = compare([scale("one", 1.0)], **QUICK)
    old = json.loads(report.to_json())
    kept = {"count", "min", "median", "mean", "p90", "p99", "max", "stdev"}
    engine = {
        key: value
        for key, value in old["engines"][0].items()
        if key not in ("model", "threads", "precision", "import_ns", "energy", "loads", "profile")
    }
    engine["latency"] = {key: value for key, value in engine["latency"].items() if key in kept}
    old = {key: old[key] for key in ("edgetx", "machine", "scenario", "baseline")}
    read = BenchReport.from_json(json.dumps(old | {"schema": 1, "engines": [engine]}))
    assert read["one"].latency.p95 == report["one"].latency.p95
    assert read["one"].threads == 1 and read.schema == 2


def test_a_truncated_report_is_named(scale, tmp_path):
    compare([scale("one", 1.0)], **QUICK).save(tmp_path / "report.json")
    whole = (tmp_path / "report.json").read_bytes()
    (tmp_path / "report.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"report\.json: not a benchmark report: .*truncated"):
        BenchReport.load(tmp_path / "report.json")
    with pytest.raises(InputError, match=r"cannot read the benchmark report .*none\.json"):
        BenchReport.load(tmp_path / "none.json")


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Makes SOURCEs whose forward does what the test says."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, line):
        (tmp_path / f"{name}.py").write_text(
            "import os, signal, time, torch\n\nclass Model(torch.nn.Module):\n    def forward(self, x):\n"
            f"        {line}\n        return x\n\ndef make():\n    return Model()\n"
        )
        return EngineSpec(
            name=name,
            kind="torch",
            path=f"{name}:make",
            shapes=("x=float32[batch,3]",),
            inputs=str(tmp_path / "inputs.npz"),
        )

    return make


def test_engines_that_hang_or_crash_are_reported_and_the_others_go_on(scale, chain):
    specs = [
        chain("hangs", "time.sleep(3600)"),
        scale("one", 1.0),
        chain("crashes", "os.kill(os.getpid(), signal.SIGSEGV)"),
    ]
    report = compare(specs, baseline="hangs", time_limit=20, **QUICK)
    assert [engine.name for engine in report.engines] == ["one"] and report["one"].latency.count == 4
    assert [failure.name for failure in report.failures] == ["hangs", "crashes"]
    assert "still busy with load after 20 s and was ended" in report.failures[0].error
    assert "was killed by signal 11 during load" in report.failures[1].error
    assert report.baseline == "one" and any("'hangs' failed" in note for note in report.notes)
    assert "FAILED: hangs" in report.to_markdown()
    assert BenchReport.from_json(report.to_json()) == report


def test_an_injected_slowdown_is_there():
    steady = EngineSpec(name="steady", kind="null", products=4)
    slow = EngineSpec(name="slow", kind="null", products=4, slowed=9.0)
    report = compare([steady, slow], threads=1, runs=40, rounds=4, warmup=1)
    # Ten times as long; the machine may be busy, so only the order of magnitude is held.
    assert report["slow"].latency.median > 3 * report["steady"].latency.median


def test_rounds_go_on_until_a_comparison_is_settled():
    """Ten times as long is settled at once; two equal engines hardly ever, for a threshold of nothing."""
    one, other, slow = (
        EngineSpec(name=name, kind="null", products=4, slowed=slowed)
        for name, slowed in (("one", 0.0), ("other", 0.0), ("slow", 9.0))
    )
    few = {"threads": 1, "runs": 24, "rounds": 8, "warmup": 1}
    assert compare([one, slow], threshold=0.5, **few).scenario.rounds < 40
    report = compare([one, other], threshold=1e-9, **few)
    found = significance.paired(report["one"].rounds_ns, report["other"].rounds_ns, threshold=1e-9)
    assert found.settled or report.scenario.rounds == 40
    assert report.scenario.runs == 3 * report.scenario.rounds == report["one"].latency.count
    with pytest.raises(InputError, match=r"8 rounds at least; given threshold=0\.05, rounds=5"):
        compare([one, other], threshold=0.05)


def test_threads_and_runtimes_make_one_table(classifier):
    quick = QUICK | {"threads": [1, 2]}
    report = edgetx.bench(classifier, runtime=["ort", "tensorrt_rtx"], **quick)
    assert [engine.name for engine in report.engines] == [
        "classifier, ort, 1 threads",
        "classifier, ort, 2 threads",
    ]
    assert [engine.threads for engine in report.engines] == [1, 2]
    assert [failure.name for failure in report.failures] == [
        "classifier, tensorrt_rtx, 1 threads",
        "classifier, tensorrt_rtx, 2 threads",
    ]
    with pytest.raises(InputError, match="unknown runtime 'none'; accepted: ort"):
        edgetx.bench(classifier, runtime="none", **QUICK)


def test_in_memory_sources_have_no_torch_baseline(classifier):
    manifest = classifier / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"source": "in-memory:Linear", "weights": "in-memory"}))
    for option in ({"torch": True}, {"stock": True}):
        with pytest.raises(InputError, match=r"exported from a model in memory .* a file with --baseline"):
            edgetx.bench(classifier, **option, **QUICK)


@pytest.mark.slow
def test_torch_and_the_stock_export_stand_beside_a_package(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    del torch
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.GELU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    package = edgetx.export(
        "net:make", output=tmp_path / "net.edgetx", inputs=[TensorSpec.parse("x=float32[batch,6]")]
    )
    report = edgetx.bench(package, stock=True, torch=True, profile=True, **QUICK)
    assert [engine.name for engine in report.engines] == ["net.edgetx", "stock export", "torch eager"]
    assert report.baseline == "stock export"
    assert all(engine.difference < 1e-5 for engine in report.engines)
    eager = report["torch eager"].profile
    assert {"aten::addmm", "aten::gelu"} & {part.operator for part in eager.parts}
    assert "0" in {part.module for part in eager.parts}
