"""Files of the Hugging Face hub: from the network where it answers, else from the cache; no long wait."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgetx.errors import SourceError
from edgetx.sources._loaded import first_line

PROBE_SECONDS = 4.0
STALL_SECONDS = 15.0
CHOICES = (
    "give --no-pretrained for random weights, a local checkpoint (PATH --model SOURCE), a local transformers "
    "folder, or HF_HUB_CACHE with the files already in it"
)


def fetch(repository: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """The local path of the first of `names` that the repository has.

    Raises:
        SourceError: the hub cannot be reached and the cache has none of them, or the repository has none.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    online = reachable()
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision, local_files_only=not online))
        except EntryNotFoundError:  # not in the repository, or offline and not in the cache
            continue
        except Exception as error:  # the hub's, requests', httpx's and the file system's own errors
            raise SourceError(
                f"cannot get {name} of {repository} from the Hugging Face hub: {first_line(error)}; {CHOICES}"
            ) from error
    wanted = " or ".join(names)
    if online:
        raise SourceError(f"the hub repository {repository} has no {wanted} that can be fetched; {CHOICES}")
    raise SourceError(
        f"cannot get {wanted} of {repository}: the Hugging Face hub cannot be reached and the local cache "
        f"lacks it; {CHOICES}"
    )


@functools.cache
def reachable() -> bool:
    """Whether the hub answers within a few seconds; its own client would retry for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # The hub's client brings its own certificates: only it can judge them.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


@contextmanager
def stall_timeout() -> Iterator[None]:
    """Bound the waits of downloads that set no timeout of their own (torch.hub)."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def split_revision(identifier: str) -> tuple[str, str | None]:
    """`org/name@revision` -> repository and revision.

    Raises:
        SourceError: not a repository id.
    """
    repository, _, revision = identifier.partition("@")
    parts = repository.split("/")
    if (
        len(parts) > 2
        or not all(part and not part.startswith(".") for part in parts)
        or os.sep == "\\" in repository
    ):
        raise SourceError(
            f"{identifier!r} is no model id of the Hugging Face hub; expected hf:ORGANISATION/NAME[@REVISION]"
        )
    return repository, revision or None
