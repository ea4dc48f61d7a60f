"""A GGUF file → a model of an Ollama server, made once and named by its bytes."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmbench.engines.ollama_server import Server, is_loopback
from llmbench.errors import BadParams, EngineLost, StudyFailed, Unsupported
from llmbench.models.checksum import exports_folder, sha256_of

TEMPLATE = "{{ .Prompt }}"
CREATE_LIMIT_S = 3600.0
FROM = re.compile(r"^FROM (/.*/sha256-[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Made:
    """A model of the server, and the file it is made of, as far as this machine can read it."""

    name: str
    blob: Path | None
    sha256: str | None  # of the blob's bytes, read when the model was made or found


def make(server: Server, file: Path, sha256: str) -> Made:
    """The model with the bytes of `file` alone: no stop words, no template of its own.

    Of our own server a blob with other bytes is replaced, and that is told.
    Raises: Unsupported when the server does not take the file, BadParams when another's server
    holds other bytes under this sha256, EngineLost when it went away.
    """
    import ollama

    name = f"llmbench-{sha256[:24]}"
    with client_errors(server):
        client = ollama.Client(host=server.address, timeout=CREATE_LIMIT_S)
        listed = any(model.model == f"{name}:latest" for model in client.list().models)
        if not _holds(server, file, sha256, listed=listed):
            client.create_blob(file)
        if not listed:
            client.create(model=name, files={file.name: f"sha256:{sha256}"}, template=TEMPLATE)
        blob = _blob(server, name)
    found = blob and sha256_of(blob)
    if blob and blob.name != f"sha256-{found}":
        raise BadParams(f"engine ollama: the server serves other bytes than those of {file.name}",
                        why=f"the sha256 of {blob} is {found}",
                        how=f"`ollama rm {name}`, remove that file, and try again")  # fmt: skip
    return Made(name, blob, found)


def _holds(server: Server, file: Path, sha256: str, *, listed: bool) -> bool:
    """Whether the server has these bytes; in our own server's folder they are read, not trusted.

    A file of a person is never linked: what is written to it later would be written to the blob.
    """
    if server.models is None:
        return listed or _has(server, sha256)
    blob = server.models / "blobs" / f"sha256-{sha256}"
    if blob.is_file():
        if sha256_of(blob) == sha256:
            return True
        blob.unlink()
        print(f"engine ollama: {blob.name} held other bytes and is replaced",
              file=sys.stderr, flush=True)  # fmt: skip
    return file.parent == exports_folder() and _linked(file, blob, sha256)


def _linked(file: Path, blob: Path, sha256: str) -> bool:
    """Whether a kept export of ours, which nobody else writes, is linked as `blob`."""
    if sha256_of(file) != sha256:
        return False
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, blob)
    except FileExistsError:  # another process was first; what it holds is read afterwards
        return True
    except OSError:  # another file system: the bytes are sent instead
        return False
    return True


def _has(server: Server, sha256: str) -> bool:
    """Whether the server holds these bytes already, as it does those of its own tags."""
    import httpx

    answer = httpx.head(f"{server.address}/api/blobs/sha256:{sha256}", trust_env=False)
    return answer.status_code == 200


def _blob(server: Server, name: str) -> Path | None:
    """The file that the server says a model is made of; None when it cannot be read here."""
    import httpx

    answer = httpx.post(f"{server.address}/api/show", json={"model": name}, trust_env=False)
    told = FROM.search(answer.json().get("modelfile") or "") if answer.is_success else None
    blob = Path(told[1]) if told and is_loopback(server.host) else None
    return blob if blob and blob.is_file() and os.access(blob, os.R_OK) else None


@contextmanager
def client_errors(server: Server) -> Iterator[None]:
    """Turn the client's ways of failing into errors for people."""
    import httpx
    import ollama

    try:
        yield
    except ollama.ResponseError as error:
        kind = Unsupported if error.status_code == 400 else StudyFailed
        raise kind(f"engine ollama: the server does not make a model of this file: {error.error}",
                   why=server.last_words()) from None  # fmt: skip
    except (ConnectionError, httpx.HTTPError) as error:
        raise EngineLost(
            f"engine ollama: lost the server at {server.address}", why=str(error),
            how="the same command tries again with a fresh server",
        ) from None  # fmt: skip
