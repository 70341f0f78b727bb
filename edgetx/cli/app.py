"""The command's frame: global options, exit codes and what an error looks like."""

from __future__ import annotations

import logging
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgetx import __version__
from edgetx.cli import bench as benchmarking
from edgetx.cli import build as building
from edgetx.cli import check, describe, make, profile, triton
from edgetx.cli import convert as conversion
from edgetx.cli import demo as demonstration
from edgetx.cli import device as devices
from edgetx.cli import quantize as quantization
from edgetx.cli import run as running
from edgetx.cli import sweep as sweeping
from edgetx.cli.console import say
from edgetx.errors import EdgetxError

INTERRUPTED = 130


class _Once(logging.Filter):
    """Lets a message through once: one command may open the same package several times."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


class Commands(TyperGroup):
    """Turns every failure into one line on stderr and an exit code: 1 a check failed, 2 bad use."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except EdgetxError as error:
            self._fail(ctx, f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            if hasattr(error, "show"):  # a usage error: the framework prints it and exits with 2
                raise
            debug = bool(ctx.params.get("debug"))
            hint = "" if debug else "; run `edgetx --debug ...` for the traceback"
            self._fail(ctx, f"error: unexpected {type(error).__name__}: {error}{hint}")
            raise typer.Exit(2) from None

    @staticmethod
    def _fail(ctx: Any, line: str) -> None:
        if ctx.params.get("debug"):
            say(traceback.format_exc().rstrip())
        say(" ".join(line.split()))


app = typer.Typer(
    cls=Commands,
    name="edgetx",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A PyTorch transformer checkpoint in, a verified and measured package for an edge device out.",
    epilog="Exit codes: 0 all is well, 1 a check failed, 2 bad use. "
    "SOURCE: timm:NAME, hf:ID or a transformers folder, a .pth/.pt/.safetensors file, module:function, "
    "or a known name such as swin_tiny.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgetx {__version__}")
        raise typer.Exit


@app.callback()
def configure(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log messages and warnings of libraries.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Also show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Set up logging for the command that follows."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR
    handler = logging.StreamHandler()
    handler.addFilter(_Once())
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR, handlers=[handler], force=True
    )
    logging.getLogger("edgetx").setLevel(level if verbose or debug else logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose or debug else logging.ERROR)
    if not (verbose or debug):
        warnings.simplefilter("ignore")


app.command()(make.deploy)
app.command()(make.export)
app.command()(building.build)
app.command()(conversion.convert)
app.command()(quantization.quantize)
app.command()(check.verify)
app.add_typer(benchmarking.app)
app.command()(running.run)
app.command()(sweeping.sweep)
app.command("profile-data")(profile.profile_data)
app.command("to-triton")(triton.to_triton)
app.command()(describe.inspect)
app.command("list")(describe.list_)
app.command()(describe.doctor)
app.command()(demonstration.demo)
app.add_typer(devices.device, name="device")


def main() -> None:
    """Entry point of the `edgetx` command; ends the process with the exit code."""
    app()
