from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetx import processors
from edgetx.core import IOSpec, OutputVerdict, Reference, SymbolRange, TensorSpec, Verdict
from edgetx.errors import PackageError
from edgetx.ops import library
from edgetx.package import Case, Manifest, Package, amend, create, digests
from edgetx.processors import ImageClassification
from edgetx.profiles import Profile, Range

IO = IOSpec(
    inputs=(TensorSpec("image", "float32", ("batch", 3, "height", 8)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
    symbols={"batch": SymbolRange(1, 8), "height": SymbolRange(8, None, 4)},
)
VERDICT = Verdict(
    outputs=(OutputVerdict("logits", 1e-6, float("inf"), 1.0, 1e-5, True, psnr=float("inf"), ssim=1.0),),
    cases=1,
    ran_on={"engine": "ONNX Runtime"},
)


def manifest(**changes: Any) -> Manifest:
    reference = Reference(
        module=None,  # type: ignore[arg-type]
        io=IO,
        samples=[],
        architecture="swin",
        source="timm:swin",
        name="swin",
        weights="random",
        processor=ImageClassification(size=(8, 8), labels=("cat", "dog")),
        notes=["random weights"],
    )
    made = Manifest.describe(
        reference,
        operators={"WindowAttention": 2},
        replaced=("layers.0.attn", "layers.1.attn"),
        bodies="attention",
        opset=23,
    )
    return msgspec.structs.replace(made, **changes)


def cases() -> list[Case]:
    image = np.arange(1 * 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
    return [Case({"image": image + n}, {"logits": np.full((1, 2), n, np.float32)}) for n in range(2)]


def write(output: Path, model: bytes = b"graph", *, force: bool = False) -> Package:
    with create(output, force=force) as draft:
        draft.model_path.write_bytes(model)
        (draft.path / "model.onnx.data").write_bytes(b"weights" * 100)
        draft.save_golden(cases())
        draft.seal(manifest())
        draft.seal(manifest().with_verdict(VERDICT))
        return draft.publish()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write(tmp_path / "swin.edgetx")


def edit(package: Package, change: Callable[[Any], None]) -> None:
    path = package.path / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_what_is_written_is_read(package: Package) -> None:
    read = Package.open(package.path)
    assert read == package
    assert read.io == IO
    assert read.verdict == VERDICT
    assert read.processor == ImageClassification(size=(8, 8), labels=("cat", "dog"))
    assert read.manifest.operators == {"WindowAttention": 2}
    assert sorted(read.manifest.files) == ["golden.npz", "model.onnx", "model.onnx.data"]
    assert read.size == sum(file.stat().st_size for file in package.path.iterdir()) - (
        (package.path / "manifest.json").stat().st_size
    )
    for case, expected in zip(read.golden(), cases(), strict=True):
        np.testing.assert_array_equal(case.inputs["image"], expected.inputs["image"])
        np.testing.assert_array_equal(case.outputs["logits"], expected.outputs["logits"])


def test_engines_are_a_cache_and_not_hashed(package: Package) -> None:
    (package.path / "engines" / "key").mkdir(parents=True)
    (package.path / "engines" / "key" / "engine").write_bytes(b"anything")
    Package.open(package.path)


def test_a_nan_verdict_survives(tmp_path: Path) -> None:
    failed = Verdict(
        (OutputVerdict("logits", float("nan"), 0.0, 0.5, 1e-5, False),), 1, {}, error="fell over"
    )
    with create(tmp_path / "p") as draft:
        draft.model_path.write_bytes(b"graph")
        draft.seal(manifest().with_verdict(failed))
        verdict = draft.publish().verdict
    assert verdict is not None
    assert np.isnan(verdict.max_abs)
    assert not verdict.passed


def test_bfloat16_cases(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    io = IOSpec((TensorSpec("x", "bfloat16", (2,)),), (TensorSpec("y", "bfloat16", (2,)),))
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    with create(tmp_path / "p") as draft:
        draft.model_path.write_bytes(b"graph")
        draft.save_golden([Case({"x": values}, {"y": values})])
        from edgetx.package import IOEntry

        draft.seal(manifest(io=IOEntry.of(io), processor=None))
        case = draft.publish().golden()[0]
    assert case.inputs["x"].dtype == ml_dtypes.bfloat16
    assert case.outputs["y"].tolist() == [1.5, -2]


def test_golden_refuses_objects(tmp_path: Path) -> None:
    with (
        create(tmp_path / "p") as draft,
        pytest.raises(PackageError, match="dtype object; accepted: float32"),
    ):
        draft.save_golden([Case({"x": np.array([{}])}, {})])


# Reading what is damaged.


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "golden.npz"])
def test_a_changed_byte_names_the_file(package: Package, name: str) -> None:
    data = bytearray((package.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (package.path / name).write_bytes(data)
    with pytest.raises(PackageError, match=rf"{name} has changed since it was written \(CRC-32 \w{{8}},"):
        Package.open(package.path)
    opened = Package.open(package.path, check=False)
    with pytest.raises(PackageError, match=rf"{name} has changed since it was written \(SHA-256 \w{{12}},"):
        opened.check("sha256")


def test_digests_are_those_of_the_libraries(package: Package) -> None:
    for name, entry in package.manifest.files.items():
        data = (package.path / name).read_bytes()
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert entry.crc32 == f"{zlib.crc32(data):08x}"
        assert entry.size == len(data)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, (1 << 20) + 77])
def test_the_native_crc32_is_zlibs(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data := bytes(number * number % 251 for number in range(size)))
    assert digests.crc32(tmp_path / "file") == f"{zlib.crc32(data):08x}"
    assert (digests._native() is None) == (library.path() is None)
    with pytest.raises(FileNotFoundError):
        digests.crc32(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        digests.crc32(tmp_path)


def test_schema_1_has_sha256_alone(package: Package) -> None:
    """It is read, amended without a trace of schema 2, and checked."""

    def to_schema_1(raw: Any) -> None:
        raw["schema_version"] = 1
        for entry in raw["files"].values():
            del entry["crc32"]

    edit(package, to_schema_1)
    opened = Package.open(package.path)
    amend(opened, opened.manifest.with_profiles([]))
    raw = json.loads((package.path / "manifest.json").read_text())
    assert raw["schema_version"] == 1
    assert all(entry.keys() == {"sha256", "size"} for entry in raw["files"].values())
    data = bytearray((package.path / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (package.path / "model.onnx.data").write_bytes(data)
    with pytest.raises(PackageError, match=r"model\.onnx\.data has changed since it was written \(SHA-256 "):
        Package.open(package.path)


def test_a_truncated_file_is_found_without_hashing(package: Package) -> None:
    (package.path / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(PackageError, match=r"model\.onnx\.data has 7 bytes, the manifest says 700"):
        Package.open(package.path, check=False)


def test_a_missing_file_is_named(package: Package) -> None:
    (package.path / "model.onnx.data").unlink()
    with pytest.raises(PackageError, match=r"model\.onnx\.data cannot be read \(No such file"):
        Package.open(package.path)


def test_a_newer_schema_says_what_to_do(package: Package) -> None:
    edit(package, lambda raw: raw.update(schema_version=7, edgetx_version="9.1", unheard_of=1))
    with pytest.raises(
        PackageError, match=r"schema version 7, written by edgetx 9\.1.*up to version 2.*upgrade"
    ):
        Package.open(package.path)


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(raw: Any) -> None:
        *parents, last = path.split("/")
        for part in parents:
            raw = raw[int(part) if isinstance(raw, list) else part]
        if value is ...:
            del raw[last]
        else:
            raw[int(last) if isinstance(raw, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("io/inputs/0/dtype", 3, r"field io\.inputs\[0\]\.dtype: expected str, got int"),
        (
            "io/inputs/0/dtype",
            "float31",
            r"field io\.inputs\[0\]\.dtype: expected one of float32, .*'float31'",
        ),
        ("io/inputs/0/shape/1", 0, r"field io\.inputs\[0\]\.shape\[1\]: expected int >= 1"),
        ("io/symbols/batch/max", "many", r"field io\.symbols\['batch'\]\.max: expected int \| null, got str"),
        ("weights", "borrowed", "field weights: expected one of pretrained, checkpoint, random, in-memory"),
        ("name", ..., "missing required field name"),
        ("schema_version", ..., "missing required field schema_version"),
        ("schema_version", "1", "field schema_version: expected int, got str"),
        ("schema_version", 0, "field schema_version: expected one of 1, 2, got 0"),
        ("extra", 1, "unknown field extra"),
        (
            "files/model.onnx/sha256",
            "abc",
            r"field files\['model\.onnx'\]\.sha256: expected str matching regex",
        ),
        ("files/model.onnx/crc32", "1234567", r"field files\['model\.onnx'\]\.crc32: expected str matching"),
        ("files/model.onnx/size", -1, r"field files\['model\.onnx'\]\.size: expected int >= 0"),
        ("operators/WindowAttention", 0, r"field operators\['WindowAttention'\]: expected int >= 1"),
        ("files/model.onnx", ..., r"field files: model\.onnx is missing"),
        ("verdict/outputs/0/max_abs", "big", r"field verdict\.outputs\[0\]\.max_abs: "),
        ("verdict/ran_on/engine", 5, r"field verdict\.ran_on\['engine'\]: expected str, got int"),
        ("processor/kind", "smell", "field processor.kind: expected one of image-classification, .*'smell'"),
        ("processor/size", "big", "field processor.size: expected 2 numbers, got 'big'"),
        ("processor/colour", "red", "field processor.colour: not a setting of image-classification"),
    ],
)
def test_a_bad_field_is_named(package: Package, path: str, value: Any, message: str) -> None:
    edit(package, _set(path, value))
    with pytest.raises(PackageError, match=message) as caught:
        Package.open(package.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "..\\b", "C:b", "", "./model.onnx", "engines/x", "a//b"]
)
def test_files_outside_the_package_are_refused(package: Package, name: str) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    edit(package, lambda raw: raw["files"].update({name: entry}))
    with pytest.raises(PackageError, match="expected a path inside the package folder"):
        Package.open(package.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"schema_version": 1', "is not valid JSON"),
        (b'{"name": "\xff"}', "is not valid JSON"),
        (b"[1]", "not an edgetx manifest"),
        (b"{}", "missing required field schema_version"),
    ],
)
def test_a_manifest_that_is_none(package: Package, content: bytes, message: str) -> None:
    (package.path / "manifest.json").write_bytes(content)
    with pytest.raises(PackageError, match=message):
        Package.open(package.path)


def test_no_package_there(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="does not exist"):
        Package.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(PackageError, match="is a file; give the folder"):
        Package.open(tmp_path / "file")
    with pytest.raises(PackageError, match=r"not an edgetx package: it has no manifest\.json"):
        Package.open(tmp_path)


def test_golden_that_is_damaged_or_does_not_fit(package: Package) -> None:
    good = (package.path / "golden.npz").read_bytes()
    for data in (b"", good[: len(good) // 2], b"PK\x03\x04" + bytes(100)):
        (package.path / "golden.npz").write_bytes(data)
        with pytest.raises(PackageError, match=r"golden\.npz is damaged"):
            package.golden()
    np.savez(package.path / "golden.npz", **{"0/input/image": np.zeros(1)})
    with pytest.raises(PackageError, match=r"case 0 has the outputs \[\], the manifest says \['logits'\]"):
        package.golden()
    np.savez(package.path / "golden.npz", **{"0/input/image": np.array([{}], dtype=object)})
    with pytest.raises(PackageError, match=r"golden\.npz is damaged"):
        package.golden()


# Writing.


def test_force_replaces_a_package(tmp_path: Path) -> None:
    output = tmp_path / "p"
    write(output, b"old")
    (output / "engines").mkdir()
    with pytest.raises(PackageError, match="already exists; choose another output folder, or --force"):
        write(output, b"new")
    assert (output / "model.onnx").read_bytes() == b"old"
    assert write(output, b"new", force=True).path == output
    assert Package.open(output).model_path.read_bytes() == b"new"
    assert not (output / "engines").exists()
    assert hidden(tmp_path) == []


def test_amend_changes_the_manifest_or_nothing(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = [Profile({"height": Range(8, 16, 32)}, 1.0)]
    amended = amend(package, package.manifest.with_profiles(profiles))
    assert list(amended.profiles) == list(Package.open(package.path).profiles) == profiles

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PackageError, match="the disk is full"):
        amend(amended, amended.manifest.with_profiles([]))
    assert list(Package.open(package.path).profiles) == profiles
    assert hidden(package.path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_previous_package(tmp_path: Path, error: type[BaseException]) -> None:
    output = tmp_path / "p"
    write(output, b"old")
    with pytest.raises(error), create(output, force=True) as draft:
        draft.model_path.write_bytes(b"new")
        draft.seal(manifest())
        raise error
    assert Package.open(output).model_path.read_bytes() == b"old"
    assert hidden(tmp_path) == []


def test_a_draft_that_is_not_published_is_removed(tmp_path: Path) -> None:
    with create(tmp_path / "p") as draft:
        draft.model_path.write_bytes(b"new")
        assert draft.seal(manifest()).manifest.name == "swin"
        assert hidden(tmp_path) == [draft.path.name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 2])
def test_an_interrupt_between_the_renames_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    output = tmp_path / "p"
    write(output, b"old")
    rename, done = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        done.append(target)
        if len(done) == step:
            raise KeyboardInterrupt
        return renamed

    with pytest.raises(KeyboardInterrupt), create(output, force=True) as draft:
        draft.model_path.write_bytes(b"new")
        draft.seal(manifest())
        monkeypatch.setattr(Path, "rename", interrupted)
        draft.publish()
    assert Package.open(output).model_path.read_bytes() == (b"old" if step == 1 else b"new")
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_is_no_package_is_never_replaced(tmp_path: Path, name: str) -> None:
    output = tmp_path / "home"
    output.mkdir()
    (output / name).write_text('{"manifest_version": 3}')
    with pytest.raises(PackageError, match="not an edgetx package, so it is not replaced"):
        write(output, force=True)
    assert (output / name).exists()


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert Package.open(write(tmp_path / "p").path).name == "swin"


def test_missing_parents_are_made(tmp_path: Path) -> None:
    assert write(tmp_path / "a" / "b" / "p").path == tmp_path / "a" / "b" / "p"


def test_a_link_to_a_package_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.onnx").read_bytes() == b"new"


def test_a_draft_without_model_or_seal(tmp_path: Path) -> None:
    with create(tmp_path / "p") as draft:
        with pytest.raises(PackageError, match=r"has no model\.onnx"):
            draft.seal(manifest())
        with pytest.raises(PackageError, match="seal it before publishing"):
            draft.publish()


def test_an_output_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackageError, match="a part of its path is a file"):
        write(tmp_path / "file" / "p")
    with pytest.raises(PackageError, match="is a file; choose another output folder"):
        write(tmp_path / "file")


def test_an_unrelated_read_error_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), create(tmp_path / "p"):
        raise PermissionError(13, "Permission denied", "/somewhere/weights.pth")


SCRIPT = """
import os, resource, signal, sys, time
from pathlib import Path
from edgetx.errors import EdgetxError
from edgetx.package import create
mode, output = sys.argv[1], Path(sys.argv[2])
if mode == "nobody":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
if mode == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with create(output, force=True) as draft:
        with draft.model_path.open("wb") as file:
            file.write(b"new")
            file.flush()
            if mode == "interrupt":
                print("writing", flush=True)
                time.sleep(60)
            file.write(bytes(5000))
except EdgetxError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _run(mode: str, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, mode, str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel refuse the write half-way, as a full disk does."""
    write(tmp_path / "p", b"old")
    done = _run("full", tmp_path / "p")
    assert done.returncode == 2, done.stderr
    assert "a file would become larger than is allowed here (File too large); free some space" in done.stdout
    assert Package.open(tmp_path / "p").model_path.read_bytes() == b"old"
    assert hidden(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_no_space_left(tmp_path: Path) -> None:
    expected = r"the disk is full \(No space left on device\); free some space"
    with pytest.raises(PackageError, match=expected), create(tmp_path / "p"), open("/dev/full", "wb") as file:
        file.write(b"new")
        file.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become nobody")
def test_a_folder_that_may_not_be_written_as_another_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        done = _run("nobody", folder / "p")
        assert done.returncode == 2, done.stderr
        assert "the folder is not writable (Permission denied); choose an output folder" in done.stdout
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PackageError, match="the folder is not writable"):
            write(tmp_path / "p")
    finally:
        tmp_path.chmod(0o755)


def test_ctrl_c_in_the_middle(tmp_path: Path) -> None:
    write(tmp_path / "p", b"old")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "interrupt", str(tmp_path / "p")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell's background job ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(hidden(tmp_path)) == 1
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) not in (0, 2)
    process.stdout.close()
    assert Package.open(tmp_path / "p").model_path.read_bytes() == b"old"
    assert hidden(tmp_path) == []


def test_a_package_without_golden_says_so(tmp_path: Path) -> None:
    with create(tmp_path / "p") as draft:
        draft.model_path.write_bytes(b"graph")
        draft.seal(manifest(processor=processors.to_dict(processors.Tensors())))
        made = draft.publish()
    assert made.processor == processors.Tensors()
    with pytest.raises(PackageError, match=r"has no golden\.npz"):
        made.golden()
