"""The errors that edgetx raises on purpose.

Every message says what happened, what was given, what is accepted and the next step. The command line
prints `str(error)` on one line and exits with `exit_code`; a traceback appears only with `--debug`.
"""

from __future__ import annotations


class EdgetxError(Exception):
    """Base of every deliberate edgetx error; `exit_code` is what the command line returns."""

    exit_code = 2


class SourceError(EdgetxError):
    """A SOURCE string, checkpoint or weight file cannot be turned into a model."""


class InputError(EdgetxError, ValueError):
    """A tensor, image or option given by the user does not fit what the model accepts."""


class PackageError(EdgetxError):
    """A package folder is missing, damaged, of another schema, or cannot be written."""


class ExportError(EdgetxError):
    """The model cannot be captured as an ONNX graph."""


class UnavailableError(EdgetxError):
    """A runtime, operator or optional dependency cannot be used here; the message is its `why_not`."""


class VerificationError(EdgetxError):
    """An artefact was produced but its outputs differ from the reference."""

    exit_code = 1


class BenchmarkError(EdgetxError):
    """An engine or its worker process failed while it was being measured."""


class DeviceError(EdgetxError):
    """A device over SSH cannot be reached, trusted, used or cleaned."""
