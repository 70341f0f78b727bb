"""Profiles, costs and pages of real, tiny models."""

import functools
import http.server
import json
import math
import re
import shutil
import subprocess
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgetx
from edgetx.benchmark import EngineSpec, Profile, compare, feeds, flops, ort_profile, roofline, tables
from edgetx.benchmark.graph import Graph
from edgetx.benchmark.profiles import Part, Rates
from edgetx.errors import BenchmarkError, InputError

HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
MAP, QKV = [1, 4, 4, 6], [9, 8]
QUICK = {"threads": 1, "runs": 4, "rounds": 2, "warmup": 1}


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """Eight linear layers with ReLU in modules `blocks.0` to `blocks.7`, each worth timing."""
    folder = tmp_path_factory.mktemp("tower")
    random = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for index in range(8):
        matrix = random.normal(0, 0.05, (512, 512)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(matrix, f"w{index}"))
        for kind, inputs, out in (
            ("MatMul", [at, f"w{index}"], f"m{index}"),
            ("Relu", [f"m{index}"], f"r{index}"),
        ):
            node = helper.make_node(kind, inputs, [out], name=f"{kind}_{index}")
            node.metadata_props.add(key="edgetx.module", value=f"blocks.{index}")
            nodes.append(node)
        at = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, ["batch", 512])],
        weights,
    )
    path = folder / "tower.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    feeds.save(folder / "inputs.npz", {"x": random.normal(size=(256, 512)).astype(np.float32)})
    return EngineSpec(name="tower", kind="onnx", path=str(path), inputs=str(folder / "inputs.npz"))


@pytest.fixture(scope="module")
def report(tower):
    return compare([tower], profile=True, **QUICK)


def test_the_parts_sum_to_the_total_and_the_remainder_is_named(report):
    profile = report["tower"].profile
    assert profile.runs == 10 and len(profile.parts) == 16 and profile.unprofiled_ns > 0
    assert 0.95 <= profile.explained <= 1.0
    named = sum(part.ns for part in profile.parts) + sum(profile.around.values())
    assert named + profile.remainder_ns == pytest.approx(profile.total_ns)
    header, rows = tables.profile_shares(profile, profile.by_operator(), "operator")
    assert [row[0] for row in rows[:2]] == ["MatMul", "Relu"]
    assert [row[0] for row in rows[-2:]] == ["(remainder)", "total"]
    assert all(len(row) == len(header) for row in rows)


def test_nodes_are_told_by_module(report):
    profile = report["tower"].profile
    assert {share.name for share in profile.by_module()} == {f"blocks.{index}" for index in range(8)}
    assert [share.name for share in profile.by_module(1)] == ["blocks"]
    assert profile.by_module(1)[0].ns == pytest.approx(sum(part.ns for part in profile.parts))


def test_flops_and_bytes_are_counted_at_the_sizes_that_ran(report):
    profile = report["tower"].profile
    product = next(part for part in profile.parts if part.operator == "MatMul")
    assert product.flops == 2 * 256 * 512 * 512
    assert product.bytes == 4 * (256 * 512 * 2 + 512 * 512)
    assert profile.rates.flops > 1e8 and profile.rates.bandwidth > 1e8 and "numpy" in profile.rates.how


def test_fused_nodes_are_told_by_the_nodes_behind_them(tmp_path):
    def graph(nodes):
        made = [
            helper.make_node(kind, inputs, outputs, name=name, domain=domain)
            for kind, inputs, outputs, name, domain in nodes
        ]
        for node in made:
            node.metadata_props.add(key="edgetx.module", value=f"of.{node.name}")
        model = helper.make_model(helper.make_graph(made, "g", [], []))
        onnx.save(model, tmp_path / "g.onnx")
        return Graph.read(tmp_path / "g.onnx")

    original = graph(
        [
            ("MatMul", ["x", "w"], ["a"], "product", ""),
            ("Add", ["a", "b"], ["c"], "bias", ""),
            ("Conv", ["c", "k"], ["d"], "conv", ""),
            ("Relu", ["d"], ["e"], "relu", ""),
        ]
    )
    optimized = graph(
        [
            ("Gemm", ["x", "w", "b"], ["c"], "fused", ""),
            ("Conv", ["c", "k2"], ["blocked"], "conv nchwc", "com.microsoft.nchwc"),
            ("ReorderOutput", ["blocked"], ["d"], "reorder", "com.microsoft.nchwc"),
            ("Relu", ["d"], ["e"], "relu", ""),
        ]
    )
    parts = [Part(name=node.name, operator="", ns=1.0) for node in optimized.nodes]
    found = {part.name: part for part in ort_profile.attribute(parts, original, optimized)}
    assert found["fused"].nodes == ("bias", "product") and found["fused"].module == "of.bias"
    assert found["conv nchwc"].nodes == ("conv",) and found["conv nchwc"].module == "of.conv"
    assert found["reorder"].nodes == () and found["reorder"].module == "of.conv"
    assert found["relu"].nodes == ("relu",)


def test_a_trace_with_too_few_runs_is_refused():
    events = [{"cat": "Session", "name": "model_run", "ts": 0, "dur": 5}]
    with pytest.raises(BenchmarkError, match="holds 1 of 2 runs"):
        ort_profile.read(events, 2, 1e6)


def test_the_roofline_takes_the_bound_that_holds():
    rates = Rates(flops=1e9, bandwidth=1e9, how="")
    assert rates.least_ns(2e6, 1e6) == pytest.approx(2e6) and rates.bound(2e6, 1e6) == "compute"
    assert rates.least_ns(1e6, 3e6) == pytest.approx(3e6) and rates.bound(1e6, 3e6) == "memory"
    profile = Profile(profiler="p", runs=1, total_ns=100.0, parts=[Part(name="a", operator="A", ns=60.0)])
    assert profile.remainder_ns == 40 and profile.explained == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("domain", "op", "attributes", "inputs", "outputs", "expected"),
    [
        ("", "MatMul", {}, [[2, 3, 4], [4, 5]], [[2, 3, 5]], 2 * 2 * 3 * 5 * 4),
        ("", "Gemm", {"transA": 1}, [[4, 3], [4, 5], [5]], [[3, 5]], 2 * 15 * 4 + 15),
        ("", "Conv", {}, [[1, 6, 8, 8], [4, 3, 3, 3], [4]], [[1, 4, 8, 8]], 256 * (2 * 27 + 1)),
        ("", "ConvTranspose", {}, [[1, 6, 4, 4], [6, 3, 2, 2]], [[1, 3, 8, 8]], 2 * 96 * 12),
        ("", "Softmax", {}, [[2, 7]], [[2, 7]], 70),
        ("", "ReduceMean", {}, [[2, 7]], [[2, 1]], 14),
        ("", "Transpose", {}, [[2, 7]], [[7, 2]], 0),
        ("", "Attention", {}, [[1, 2, 5, 4], [1, 2, 6, 4], [1, 2, 6, 3]], [[1, 2, 5, 3]], 60 * (8 + 6 + 5)),
        ("", "Attention", HEADS, [[1, 5, 8], [1, 6, 8], [1, 6, 6]], [[1, 5, 6]], 1140),
        ("edgetx", "BiasGelu", {}, [[2, 3], [3]], [[2, 3]], 66),
        ("edgetx", "AddNorm", {"epsilon": 1e-5}, [[2, 3]], [[2, 3]], 60),
        ("edgetx", "DepthwiseConv", {"activation": "gelu"}, [MAP, [3, 3, 6], [6]], [MAP], 96 * 29),
        ("edgetx", "GroupAttention", {"num_heads": 2}, [QKV, QKV, QKV, [3, 4]], [QKV], 3 * 2 * 16 * 21),
        ("other", "Thing", {}, [[1]], [[1]], None),
        ("", "LSTM", {}, [[1]], [[1]], None),
        ("", "Gemm", {}, [], [], None),
    ],
)  # fmt: skip
def test_flops(domain, op, attributes, inputs, outputs, expected):
    assert flops.flops(domain, op, attributes, inputs, outputs) == expected


def test_window_attention_counts_windows_with_their_padding():
    attributes = {"num_heads": 2, "head_size": 4, "window": [4, 4], "pad": "after_roll"}
    per_logit = 2 * 4 + 2 * 4 + 5
    counted = flops.flops("edgetx", "WindowAttention", attributes, [[3, 6, 8, 24]], [[3, 6, 8, 8]])
    assert counted == 3 * 2 * 2 * 2 * 16 * 16 * per_logit


def test_views_move_no_bytes(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], name="reshape"),
        helper.make_node("Neg", ["flat"], ["y"], name="neg"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])],
        [helper.make_tensor("shape", TensorProto.INT64, [1], [6])],
    )
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    costs = roofline.costs_of(Graph.read(path), path, {"x": np.ones((2, 3), np.float32)})
    assert costs["reshape"].bytes == 0 and costs["neg"].bytes == 48 and costs["neg"].flops == 6


def test_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be read as an ONNX model"):
        Graph.read(tmp_path / "x.onnx")


def test_csv_and_markdown(report, tmp_path):
    report.save(tmp_path / "r.csv")
    header, row = (line.split(",") for line in (tmp_path / "r.csv").read_text().splitlines())
    values = dict(zip(header, row, strict=False))
    assert float(values["median_ms"]) == pytest.approx(report["tower"].latency.median / 1e6)
    assert values["scenario"] == "closed loop" and values["model"] == "tower"
    report.save(tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().startswith("| engine |")


def test_html_needs_nothing_else(report, tmp_path):
    pytest.importorskip("plotly")
    report.save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    before, _, script = text.partition("<script>")
    # plotly's script names addresses in its code; the page itself loads nothing.
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", before)
    figures = json.loads(re.search(r"const figures = (.*);\nconst settings", script, re.DOTALL)[1])
    names = [name for name, _, _ in figures]
    assert {"medians", "histogram", "timeline", "modules0", "roofline0", "state"} <= set(names) | {"state"}
    counted = {name: data for name, data, _ in figures}["histogram"][0]
    assert sum(counted["y"]) == report["tower"].latency.count
    assert "blocks.0" in before and "width=device-width" in before and "@media print" in before


def test_html_draws_in_a_browser_without_a_network(report, tmp_path):
    pytest.importorskip("plotly")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium; Debian: apt-get install chromium")
    report.save(tmp_path / "r.html")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        command += ["--dump-dom", f"http://127.0.0.1:{server.server_port}/r.html"]
        drawn = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        server.shutdown()
    assert drawn.count('class="main-svg"') >= 4
    assert set(asked) <= {"/r.html", "/favicon.ico"}


def test_infinite_and_empty_values_do_not_reach_a_figure(report):
    from edgetx.benchmark import charts

    for chart in (charts.medians(report), charts.histogram(report), charts.timeline(report)):
        for trace in chart.data:
            assert all(math.isfinite(value) for value in trace["x"] if isinstance(value, float))


def test_what_has_no_profiler_is_noted_and_measured(tower):
    nothing = EngineSpec(name="nothing", kind="null", products=1)
    report = compare([nothing], profile=True, **QUICK)
    assert report["nothing"].profile is None and report["nothing"].latency.count == 4
    assert any(
        "no profile of nothing" in note and "no profiler that edgetx reads" in note for note in report.notes
    )


def test_a_package_is_profiled_with_its_processor(classifier):
    profile = edgetx.bench(classifier, profile=True, **QUICK).engines[0].profile
    assert [part.operator for part in profile.parts] == ["ReduceMean", "Mul"]
    assert set(profile.around) == {"scheduling between nodes", "binding of inputs and outputs"}
