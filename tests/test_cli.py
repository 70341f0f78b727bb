"""The command line, in this process through typer's runner and in real subprocesses."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from edgetx import __version__, benchmark, doctor, pipeline, verification
from edgetx.benchmark import runner as bench_runner
from edgetx.cli import app
from edgetx.core import OutputVerdict, Verdict
from edgetx.errors import SourceError, VerificationError
from edgetx.ops import OPERATORS
from edgetx.package import Package

COMMANDS = (
    "deploy",
    "export",
    "verify",
    "bench",
    "run",
    "convert",
    "build",
    "sweep",
    "device",
    "profile-data",
    "inspect",
    "list",
    "doctor",
)
QUICK = ("--threads", "1", "--runs", "2", "--rounds", "1", "--warmup", "0")


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch):
    monkeypatch.setattr(bench_runner, "WARMUP_MAX_RUNS", 2)


@pytest.fixture(autouse=True)
def logging_restored():
    """The command configures logging for a process of its own; leave none of that to other tests."""
    handlers, loggers = (
        logging.root.handlers[:],
        [logging.getLogger(name) for name in ("", "edgetx", "py.warnings")],
    )
    levels = [logger.level for logger in loggers]
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def edgetx(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "edgetx", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


@pytest.fixture
def damaged(classifier):
    """A package that is whole, but whose golden outputs are others than its model's."""
    from edgetx.package import Case, create

    manifest = Package.open(classifier).manifest
    with create(classifier, force=True) as draft:
        draft.model_path.write_bytes((classifier / "model.onnx").read_bytes())
        draft.save_golden(
            [Case({"image": np.ones((1, 3, 8, 8), np.float32)}, {"logits": np.zeros((1, 3), np.float32)})]
        )
        draft.seal(manifest)
        return draft.publish().path


# --- the frame --------------------------------------------------------------------------------------


def test_version_and_help():
    assert invoke("--version").output.strip() == f"edgetx {__version__}"
    shown = invoke("--help")
    assert shown.exit_code == 0
    for command in COMMANDS:
        assert command in shown.output
        assert invoke(command, "--help").exit_code == 0


def test_help_imports_no_framework():
    code = (
        "import sys\nfrom edgetx.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'PIL') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy",),
        ("nonsense",),
        ("bench",),
        ("verify", "x", "--threads", "-1"),
        ("export", "x", "--bodies", "y"),
    ],
)
def test_bad_use_exits_with_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert not result.stdout


@pytest.mark.parametrize(
    ("error", "code"), [(SourceError("no such\nmodel"), 2), (VerificationError("they differ"), 1)]
)
def test_deliberate_errors_are_one_line(monkeypatch, error, code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(pipeline, "export", fail)
    result = invoke("export", "swin_tiny")
    assert result.exit_code == code
    assert not result.stdout
    assert result.stderr.strip() == f"error: {' '.join(str(error).split())}"
    assert "Traceback" in invoke("--debug", "export", "swin_tiny").stderr


def test_unexpected_errors_hint_at_debug(monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "export", fail)
    result = invoke("export", "swin_tiny")
    assert result.exit_code == 2
    assert "unexpected ZeroDivisionError: oops" in result.stderr and "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_interruption_is_one_line_and_130(monkeypatch):
    def interrupt(*arguments, progress, **options):
        progress("loading the model")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "export", interrupt)
    result = invoke("export", "swin_tiny")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert "stopped  loading the model" in result.stderr


# --- deploy and export ------------------------------------------------------------------------------


@pytest.fixture
def fake_pipeline(monkeypatch, classifier):
    """`pipeline.deploy` and `export` that note their arguments and return the small package, measured."""
    package = Package.open(classifier)
    seen = {}
    verdict = Verdict(
        (OutputVerdict("logits", 1e-6, 1e-6, 1.0, 1e-5, True),), 1, {"runtime": "ort", "device": "cpu"}
    )

    def deploy(source, **options):
        seen.update(options, source=source)
        options["progress"]("exporting")
        print("a library that prints")
        report = benchmark.bench(
            package, baseline=classifier / "model.onnx", threads=1, runs=2, rounds=1, warmup=0
        )
        answers = {
            str(image): [{"label": "red", "index": 0, "probability": 0.5}] for image in options["images"]
        }
        return pipeline.Deployment(package, seen.get("verdict", verdict), report, answers, ("a note",))

    def export(source, **options):
        seen.update(options, source=source)
        return package

    monkeypatch.setattr(pipeline, "deploy", deploy)
    monkeypatch.setattr(pipeline, "export", export)
    return seen


def test_deploy_ends_in_a_table(fake_pipeline):
    result = invoke(
        "deploy", "swin_tiny", "--no-pretrained", "--image", "cat.png", "-o", "out", "--no-baseline"
    )
    assert result.exit_code == 0, result.stderr
    for text in (
        "random",
        "ort",
        "parity",
        "median",
        "p90",
        "p99",
        "peak memory",
        "file size",
        "speed",
        "red",
        "note",
    ):
        assert text in result.stdout
    assert "a library that prints" not in result.stdout
    assert "done  exporting" in result.stderr
    assert fake_pipeline["pretrained"] is False and fake_pipeline["baseline"] is False
    assert fake_pipeline["output"] == Path("out") and fake_pipeline["images"] == [Path("cat.png")]


def test_deploy_writes_json_alone_to_stdout(fake_pipeline):
    result = invoke("deploy", "swin_tiny", "--json", "--image", "cat.png", "--bodies", "primitive")
    report = json.loads(result.stdout)
    assert report["passed"] and report["model"]["weights"].startswith("random")
    assert report["report"]["engines"][0]["latency"]["median"] > 0
    assert report["predictions"]["cat.png"][0]["label"] == "red"
    assert fake_pipeline["bodies"] == "primitive" and fake_pipeline["pretrained"] is None


def test_deploy_that_fails_a_check_exits_with_1(fake_pipeline):
    fake_pipeline["verdict"] = Verdict((), 1, {}, error="the engine fell over")
    result = invoke("deploy", "swin_tiny")
    assert result.exit_code == 1
    assert "FAILED: the engine fell over" in result.stdout


def test_export_passes_its_options_on(fake_pipeline, classifier):
    result = invoke(
        "export", "a:b", "--input", "x=float32[batch,3]", "--model", "swin_tiny", "--force", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["package"] == str(classifier)
    assert [str(spec) for spec in fake_pipeline["inputs"]] == ["x=float32[batch,3]"]
    assert fake_pipeline["model"] == "swin_tiny" and fake_pipeline["force"] is True


def test_help_shows_the_form_of_an_input():
    assert "x=float32[n" in invoke("export", "--help").output


@pytest.mark.parametrize("command", ["deploy", "export"])
def test_what_cannot_end_well_is_told_before_the_model_is_loaded(command, classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_reference", lambda *_, **__: pytest.fail("the model was loaded"))
    result = invoke(command, "swin_tiny", "-o", classifier)
    assert result.exit_code == 2 and "--force" in result.stderr
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "edgetx.sources", None)
    result = invoke(command, "swin_tiny", "--image", tmp_path / "no.png", "-o", tmp_path / "out")
    assert result.exit_code == 2 and "no.png does not exist" in result.stderr


def test_input_of_another_form_is_bad_use(fake_pipeline):
    result = invoke("export", "a:b", "--input", "x:float32")
    assert result.exit_code == 2
    assert "expected name=dtype[dim,...]" in result.stderr


# --- verify, bench, run -----------------------------------------------------------------------------


def test_verify(classifier):
    result = invoke("verify", classifier, "--threads", "1")
    assert result.exit_code == 0, result.stderr
    assert "passed" in result.stdout and "logits" in result.stdout
    report = json.loads(invoke("verify", classifier, "--json").stdout)
    assert report["passed"] and report["verdict"]["outputs"][0]["name"] == "logits"


def test_settings_of_the_engine_reach_it(classifier):
    options = ("--threads", "1", "--optimization", "none", "--no-custom-ops")
    ran_on = json.loads(invoke("verify", classifier, "--json", *options).stdout)["verdict"]["ran_on"]
    assert (ran_on["threads"], ran_on["optimization"]) == ("1", "none")
    report = benchmark.BenchReport.from_json(
        invoke("bench", classifier, "--json", *QUICK, "--optimization", "basic").stdout
    )
    assert report.engines[0].ran_on["optimization"] == "basic"


def test_verify_exits_with_1_where_outputs_differ(damaged):
    result = invoke("verify", damaged)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--runtime", "abacus"), "unknown runtime 'abacus'; accepted: ort"),
        (("--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_verify_with_a_wrong_option_is_bad_use(classifier, options, message):
    result = invoke("verify", classifier, *options)
    assert result.exit_code == 2
    assert message in result.stderr and not result.stdout


def test_verify_a_changed_byte(classifier):
    model = bytearray((classifier / "model.onnx").read_bytes())
    model[-1] ^= 1
    (classifier / "model.onnx").write_bytes(bytes(model))
    result = invoke("verify", classifier)
    assert result.exit_code == 2
    assert "model.onnx has changed" in result.stderr


def test_verify_per_module_names_the_first_that_differs(classifier, monkeypatch):
    modules = [
        verification.ModuleError("a.b", "Linear", 1e-7, 1e-7, 1.0, True),
        verification.ModuleError("a.c", "LayerNorm", 1e-2, 1e-2, 0.9, False),
        verification.ModuleError("a.d", "Linear", 1e-1, 1e-1, 0.8, False),
    ]
    monkeypatch.setattr(verification, "per_module", lambda package: modules)
    result = invoke("verify", classifier, "--per-module")
    assert result.exit_code == 1
    assert "the first module that differs: a.c (LayerNorm)" in result.stdout
    report = json.loads(invoke("verify", classifier, "--per-module", "--json").stdout)
    assert [module["name"] for module in report["modules"]] == ["a.b", "a.c", "a.d"]
    assert report["verdict"]["outputs"][0]["passed"] and not report["passed"]


def test_bench(classifier, tmp_path):
    result = invoke(
        "bench", classifier, "--baseline", classifier / "model.onnx", "-o", tmp_path / "r.json", *QUICK
    )
    assert result.exit_code == 0, result.stderr
    assert "classifier" in result.stdout and "baseline" in result.stdout
    saved = benchmark.BenchReport.from_json((tmp_path / "r.json").read_text())
    assert [engine.kind for engine in saved.engines] == ["package", "onnx"]


def test_bench_json(classifier):
    result = invoke("bench", classifier, "--json", *QUICK)
    report = benchmark.BenchReport.from_json(result.stdout)
    assert report.scenario.runs == 2
    assert "measuring" in result.stderr


def test_run_on_images(classifier, tmp_path):
    image, other = tmp_path / "first.png", tmp_path / "second.png"
    for path in (image, other):
        Image.new("RGB", (16, 12), (255, 0, 0)).save(path)
    result = invoke("run", classifier, image, other)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("red ") >= 2
    (first, _) = json.loads(invoke("run", classifier, image, other, "--json").stdout)
    assert first["input"] == str(image)
    assert first["answer"][0]["label"] == "red" and len(first["answer"]) == 2


def test_run_on_arrays(classifier, tmp_path):
    pixels = np.full((2, 3, 8, 8), 4, np.float32)
    np.save(tmp_path / "x.npy", pixels)
    np.savez(tmp_path / "x.npz", image=pixels)
    for given in (tmp_path / "x.npy", tmp_path / "x.npz", f"image={tmp_path / 'x.npy'}"):
        output = tmp_path / "out.npz"
        result = invoke("run", classifier, given, "-o", output, "--json", "--force")
        assert result.exit_code == 0, result.stderr
        (summary,) = json.loads(result.stdout)[0]["answer"]
        assert (summary["output"], summary["shape"], summary["mean"]) == ("logits", [2, 3], 2.0)
        np.testing.assert_array_equal(np.load(output)["logits"], np.full((2, 3), 2, np.float32))
        assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [
            ".npy",
            ".npz",
            ".npz",
        ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.png"], "nowhere.png"),
        (["nowhere.npy"], "nowhere.npy"),
        (["other=x.npy"], "unknown input 'other'"),
        (["image=x.npy", "y.npy"], "cannot be mixed"),
    ],
)
def test_run_on_bad_input(classifier, given, message):
    result = invoke("run", classifier, *given)
    assert result.exit_code == 2
    assert message in result.stderr and not result.stdout


@pytest.mark.parametrize("option", [(), ("--max-memory", "256M"), ("--format", "kitti")])
def test_run_on_no_package(tmp_path, option):
    """Whatever the options are for, the package is what is missing."""
    result = invoke("run", tmp_path / "gone.edgetx", "cat.png", *option)
    assert result.exit_code == 2
    assert "gone.edgetx does not exist; give the folder" in " ".join(result.stderr.split())


def test_run_says_what_does_not_fit(classifier, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 8), np.float32))
    result = invoke("run", classifier, tmp_path / "x.npy")
    assert result.exit_code == 2
    assert "size 9 on axis 2" in result.stderr


def test_files_that_are_there_stay(classifier, tmp_path):
    """What `run` and `bench` write replaces nothing without --force, and that is known before the work."""
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    for command in (("run", classifier, tmp_path / "x.npy"), ("bench", classifier, *QUICK)):
        output = tmp_path / "out"
        output.write_text("precious")
        for name, message in ((output, "--force"), (tmp_path, "is a folder"), (output / "a", "no folder")):
            result = invoke(*command, "-o", name)
            assert result.exit_code == 2 and message in result.stderr, (command, name)
            assert not result.stdout and "measuring" not in result.stderr
        assert output.read_text() == "precious"
        assert invoke(*command, "-o", output, "--force").exit_code == 0
        assert output.read_bytes() != b"precious"


def test_run_on_a_folder_and_a_glob(classifier, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (16, 12), (255, 0, 0)).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    result = invoke("run", classifier, folder, "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [Path(row["input"]).name for row in rows] == ["a.png", "c.png", "b.png"]
    assert rows[0]["answer"][0]["label"] == "red"
    assert "is not an image" in rows[2]["error"] and "b.png" in result.stderr
    assert invoke("run", classifier, folder / "[ac].png").stdout.count("red ") >= 2
    for empty in (tmp_path, tmp_path / "*.png"):
        result = invoke("run", classifier, empty)
        assert result.exit_code == 2 and "holds no images" in result.stderr
    result = invoke("run", classifier, "")
    assert result.exit_code == 2 and "a path is empty" in result.stderr


def test_run_writes_one_output_file_for_one_input(classifier, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "y.npy", np.zeros((1, 3, 8, 8), np.float32))
    result = invoke("run", classifier, tmp_path / "x.npy", tmp_path / "y.npy", "-o", tmp_path / "out.npz")
    assert result.exit_code == 2
    assert "2 inputs were given" in result.stderr
    assert not (tmp_path / "out.npz").exists()
    result = invoke("run", classifier, tmp_path / "x.npy", "-o", tmp_path / "new" / "out.npz")
    assert result.exit_code == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.npz"]


# --- inspect, list, doctor --------------------------------------------------------------------------


def test_inspect_a_package(classifier):
    result = invoke("inspect", classifier)
    assert result.exit_code == 0, result.stderr
    for text in ("image=float32[batch,3,8,8]", "image-classification", "size of batch", "file model.onnx"):
        assert text in result.stdout
    assert json.loads(invoke("inspect", classifier, "--json").stdout)["manifest"]["name"] == "classifier"


def test_inspect_an_onnx_file(tmp_path):
    function = helper.make_function(
        "edgetx",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 20)],
    )
    inner = helper.make_graph(
        [helper.make_node("Neg", ["y"], ["n"])],
        "then",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["y"], domain="edgetx"),
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", None, 4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT16, None)],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("edgetx", 1)],
        functions=[function],
    )
    onnx.save(model, tmp_path / "m.onnx")
    facts = json.loads(invoke("inspect", tmp_path / "m.onnx", "--json").stdout)
    assert facts["inputs"] == ["x=float16[n,?,4]", "c=bool[]"]
    assert facts["operators"] == {"Neg": 2, "If": 1, "edgetx::Twice": 1}
    assert facts["custom_operators"] == {"edgetx::Twice": 1}
    assert facts["functions"] == ["edgetx::Twice: 1 nodes"]
    assert facts["opsets"] == {"ai.onnx": 20, "edgetx": 1}
    assert "1 edgetx::Twice" in invoke("inspect", tmp_path / "m.onnx").stdout


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(range(256))])
def test_inspect_what_is_no_model(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    result = invoke("inspect", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "m.onnx" in result.stderr and not result.stdout


def test_inspect_nothing(tmp_path):
    result = invoke("inspect", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_list_says_why_not():
    listed = json.loads(invoke("list", "--json").stdout)
    assert {entry["id"] for entry in listed["architectures"]} >= {"swin", "swinv2"}
    assert "edgetx::WindowAttention" in [entry["name"] for entry in listed["operators"]]
    assert len(listed["operators"]) == len(OPERATORS)
    for entries in listed.values():
        assert entries and all("why_not" in entry for entry in entries)
    shown = invoke("list").stdout
    assert "swinv2" in shown and "ort" in shown


def test_doctor():
    result = invoke("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["can_run"] else 1)
    assert report["machine"]["cpu"] and report["disk_free"] > 0
    assert {part["name"] for part in report["parts"]} >= {
        "torch",
        "onnx",
        "onnxruntime",
        "timm",
        "transformers",
    }
    shown = invoke("doctor").stdout
    assert "cpu features" in shown and "native operators" in shown


def test_doctor_exits_with_1_where_nothing_runs(monkeypatch):
    entry = {
        "id": "ort",
        "title": "ONNX Runtime",
        "version": None,
        "why_not": "not installed: pip install 'edgetx[ort]'",
    }
    monkeypatch.setattr(doctor, "_runtimes", lambda: [entry])
    monkeypatch.setattr(doctor, "_installed", lambda names: None)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "missing: ort: not installed: pip install 'edgetx[ort]'" in result.stdout


# --- real processes ---------------------------------------------------------------------------------


def test_a_package_runs_in_a_process_of_its_own(classifier, photograph):
    done = edgetx("run", classifier, photograph, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["answer"][0]["label"] in ("red", "green", "blue")


def test_exit_codes_reach_the_shell(damaged, tmp_path):
    assert edgetx("verify", damaged).returncode == 1
    missing = edgetx("run", tmp_path / "nowhere", "cat.png")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ") and missing.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to one process")
def test_ctrl_c_in_the_middle_of_a_benchmark(classifier):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "edgetx", "bench", str(classifier), "--seconds", "600"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        while "warming up" not in (line := process.stderr.readline()):
            assert line, "the benchmark ended by itself"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted"
    assert not stdout


def test_bench_scenarios_and_pages(classifier, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    pytest.importorskip("plotly")
    options = (
        "--scenario",
        "single-stream,offline",
        "--seconds",
        "0.2",
        "--profile",
        "-o",
        tmp_path / "r.html",
    )
    result = invoke("bench", classifier, *options, "--threads", "1", "--warmup", "0")
    assert result.exit_code == 0, result.stderr
    for words in ("single-stream", "offline", "short run, not judged", "where the time goes", "(remainder)"):
        assert words in result.stdout
    assert "kept in " in result.stderr
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    shown = invoke("bench", "history", classifier)
    assert shown.exit_code == 0 and "classifier" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--scenario", "burst"),
            "unknown scenario 'burst'; accepted: single-stream, multi-stream, server, offline",
        ),
        (("--runtime", "warp"), "unknown runtime 'warp'; accepted: ort"),
        (("--qps", "5"), "--qps belongs to the server scenario"),
        (("--batch", "4"), "--batch belongs to the scenarios multi-stream and offline"),
        (("--threads", "many"), "--threads is 'many'; give a number"),
        (("--precision", "float7"), "float7"),
        (("--torch", "--device", "orin"), "orin"),
    ],
)
def test_bench_refuses(classifier, options, message):
    result = invoke("bench", classifier, *QUICK, *options)
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.count("\n") <= 3


def test_a_failed_engine_is_exit_code_1(classifier):
    result = invoke("bench", classifier, "--runtime", "ort,tensorrt_rtx", *QUICK)
    assert result.exit_code == 1 and "FAILED: classifier, tensorrt_rtx" in result.stdout
