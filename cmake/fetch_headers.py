"""Fetch the headers of ONNX Runtime, Highway and nlohmann-json and print the folder they lie in.

ONNX Runtime's wheel has no headers; Debian's packages have. They are downloaded by apt, which checks their
signatures, from the mirror that this machine uses, through an apt root of our own: nothing is installed,
and no root is needed. A second run finds them in the cache. Only the standard library is used.

    EDGETX_HEADERS          folder to unpack into, default ~/.cache/edgetx/headers
    EDGETX_DEBIAN_MIRROR    a Debian mirror, default the one in /etc/apt
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "trixie"
PACKAGES = ("libonnxruntime-dev", "libhwy-dev", "nlohmann-json3-dev")
EXPECTED = (
    "usr/include/onnxruntime/onnxruntime_c_api.h",
    "usr/include/hwy/highway.h",
    "usr/include/nlohmann/json.hpp",
)
KEYRINGS = tuple(
    Path("/usr/share/keyrings", f"debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg", "asc")
)
INSTEAD = (
    "set ORT_ROOT (a folder with onnxruntime_c_api.h, for example from ONNX Runtime's release archive), "
    "HWY_ROOT (Highway, with hwy/highway.h) and JSON_ROOT (with nlohmann/json.hpp), or install "
    "libonnxruntime-dev, libhwy-dev and nlohmann-json3-dev"
)


class FetchError(Exception):
    """What went wrong, and what to do instead."""


def main() -> int:
    try:
        print(fetch(folder()))
    except FetchError as error:
        print(
            f"cannot fetch the headers of ONNX Runtime, Highway and nlohmann-json: {error}; {INSTEAD}",
            file=sys.stderr,
        )
        return 1
    return 0


def folder() -> Path:
    """Where the headers are kept."""
    if chosen := os.environ.get("EDGETX_HEADERS"):
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "edgetx", "headers")


def fetch(target: Path) -> Path:
    """`target` with the headers in it, downloaded unless they are there."""
    if is_complete(target):
        return target
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchError(f"this machine has no {tool}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".headers-", dir=target.parent) as temporary:
            unpacked = download(Path(temporary))
            if not is_complete(unpacked):
                raise FetchError(
                    f"the packages {', '.join(PACKAGES)} of {SUITE} lack {' or '.join(EXPECTED)}"
                )
            install(unpacked, target)
    except OSError as error:
        raise FetchError(str(error)) from None
    return target


def is_complete(root: Path) -> bool:
    return all((root / path).is_file() for path in EXPECTED)


def install(unpacked: Path, target: Path) -> None:
    """Rename, so that a reader never sees half of it; another process may have been faster."""
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)
    try:
        unpacked.rename(target)
    except OSError:
        if not is_complete(target):
            raise


def download(work: Path) -> Path:
    """Download and unpack the packages below `work`."""
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (work / name).mkdir(parents=True)
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={keyring()}] {mirror()} {SUITE} main\n")
    apt = [
        "apt-get",
        "-q",
        *("-o", f"Dir::Etc::sourcelist={sources}"),
        *("-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::Lists={work / 'lists'}"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", "Acquire::Languages=none"),
        *("-o", "Acquire::Retries=3"),
    ]
    if os.geteuid() == 0:
        # apt's download user may not enter our temporary folder.
        apt += ["-o", "APT::Sandbox::User=root"]
    command([*apt, "update"], work)
    command([*apt, "download", *PACKAGES], work / "debs")
    root = work / "root"
    for package in sorted((work / "debs").glob("*.deb")):
        command(["dpkg", "-x", str(package), str(root)], work)
    return root


def command(arguments: list[str], directory: Path) -> None:
    print("+", *arguments, file=sys.stderr)
    result = subprocess.run(
        arguments, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        last = " ".join(result.stdout.strip().splitlines()[-3:])
        raise FetchError(f"`{arguments[0]} {arguments[-1]}` failed: {last}")


def keyring() -> Path:
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise FetchError(f"no Debian keyring at {KEYRINGS[0]}; the package debian-archive-keyring has it")


def mirror() -> str:
    """The Debian mirror of this machine."""
    if chosen := os.environ.get("EDGETX_DEBIAN_MIRROR"):
        return chosen
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found = [uri for file in files if file.suffix in (".list", ".sources") for uri in uris(file)]
    for uri in found:
        if re.search(r"/debian/?$|debian[^/]*\.list$", uri):
            return uri
    raise FetchError(
        f"no Debian mirror in {apt} (found {', '.join(found) or 'none'}); EDGETX_DEBIAN_MIRROR can name one"
    )


def uris(file: Path) -> list[str]:
    """The addresses in one of apt's files, in either format."""
    try:
        text = file.read_text()
    except OSError:
        return []
    if file.suffix == ".sources":
        return [uri for line in re.findall(r"^URIs:(.*)$", text, re.MULTILINE) for uri in line.split()]
    return re.findall(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)", text, re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
