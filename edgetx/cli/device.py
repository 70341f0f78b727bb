"""`device`: machines over SSH that `bench --device NAME` measures on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, show, show_facts, show_table

if TYPE_CHECKING:
    from edgetx.benchmark import BenchReport

device = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Register machines over SSH, look at them, clean them; measure there with bench --device NAME.",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A device's name.")]


def measurer(name: str) -> Callable[..., BenchReport]:
    """`edgetx.bench` for this machine's processors, the same on a registered device for its name."""
    from edgetx.devices import registry

    chosen, _ = registry.split(name)
    if chosen is None:
        from edgetx import benchmark

        return benchmark.bench
    from edgetx import devices

    registry.get(chosen)
    return partial(devices.bench, name)


@device.command()
def add(
    name: Name,
    ssh: Annotated[str, typer.Option("--ssh", metavar="[USER@]HOST[:PORT]", help="Where it is.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="A private key; default the SSH agent and ~/.ssh."),
    ] = None,
    python: Annotated[
        str, typer.Option("--python", metavar="PATH", help="The interpreter there, 3.10 or newer.")
    ] = "python3",
    folder: Annotated[
        str, typer.Option("--folder", metavar="DIR", help="Where everything is kept there.")
    ] = ".edgetx-device",
    wheels: Annotated[
        Path | None,
        typer.Option("--wheels", metavar="DIR", help="More wheels for it, such as another architecture's."),
    ] = None,
    accept_key: Annotated[
        str | None,
        typer.Option(
            "--accept-key", metavar="FINGERPRINT", help="Trust the host key SHA256:... from now on."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change a device that is registered.")] = False,
) -> None:
    """Register a machine, once it was reached, trusted and found able."""
    from edgetx import devices

    with Progress() as progress:
        added = devices.add(
            name,
            ssh,
            key=key,
            python=python,
            folder=folder,
            wheels=wheels,
            accept=accept_key,
            replace=replace,
            progress=progress,
        )
    show(
        f"registered {added.name}: {added.address}; measure there with edgetx bench PKG --device {added.name}"
    )


@device.command("list")
def list_(json: options.Json = False) -> None:
    """List the registered devices, without connecting."""
    from edgetx import devices

    known = devices.devices()
    if json:
        emit_json(list(known.values()))
    elif not known:
        show("no devices; register one: edgetx device add NAME --ssh USER@HOST")
    else:
        show_table(
            ["device", "address", "key", "python", "folder", "wheels"],
            [
                [each.name, each.address, each.key or "", each.python, each.folder, each.wheels or ""]
                for each in known.values()
            ],
        )


@device.command()
def doctor(name: Name, json: options.Json = False) -> None:
    """Connect to a device and show its state; exit code 1 if edgetx cannot run there."""
    from edgetx import devices

    with Progress() as progress:
        found = devices.examine(name, progress)
    if json:
        emit_json(found)
    else:
        show_facts(_facts(found), title=f"device {name}")
    if found["why_not"] is not None and found["environments"]:
        raise typer.Exit(1)


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    from edgetx.benchmark.report import size

    facts, lock = found["facts"], found["lock"]
    markers = facts["markers"]
    ready = "ready"
    if found["why_not"] is not None:
        ready = found["why_not"] if found["environments"] else "installed by the first benchmark"
    return [
        ("address", found["device"].address),
        (
            "system",
            f"{markers['platform_system']} {markers['platform_release']}, {markers['platform_machine']}",
        ),
        ("C library", " ".join(facts["libc"]).strip() or "unknown"),
        ("python", f"{markers['python_full_version']} ({found['device'].python})"),
        ("folder", f"{facts['folder']}, {size(found['used'])}; {size(found['free'])} free"),
        ("edgetx", ready),
        ("in use", "no" if lock is None else f"by {lock['user']} on {lock['host']}, since {lock['since']}"),
        *[("damaged", f"{sha[:12]}... was removed; it is sent again") for sha in found["damaged"]],
    ]


@device.command()
def remove(
    name: Name,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Only forget it, without connecting; its files stay there."),
    ] = False,
) -> None:
    """Take everything of edgetx off a device, then forget it."""
    from edgetx import devices
    from edgetx.benchmark.report import size

    known = devices.get(name)
    with Progress() as progress:
        freed = devices.remove(name, forget=forget, progress=progress)
    if forget:
        show(f"forgot {name}; what is in {known.folder} on {known.address} stays there")
    else:
        show(f"removed {name}: {size(freed)} freed on {known.address}, nothing is left there")
