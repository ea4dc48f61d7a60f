"""A GGUF file → a model of an Ollama server, made once and named by its bytes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbench.engines.ollama_server import Server
from llmbench.errors import EngineLost, StudyFailed, Unsupported

TEMPLATE = "{{ .Prompt }}"
CREATE_LIMIT_S = 3600.0


def sha256_of(file: Path) -> str:
    """What the server calls the file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def create(server: Server, file: Path, sha256: str) -> str:
    """The name of a model with the bytes of `file` alone: no stop words, no template of its own.

    Raises: Unsupported when the server does not take the file, EngineLost when it went away.
    """
    import ollama

    name = f"llmbench-{sha256[:24]}"
    with client_errors(server):
        client = ollama.Client(host=server.address, timeout=CREATE_LIMIT_S)
        if any(model.model == f"{name}:latest" for model in client.list().models):
            return name
        if not _linked(server, file, sha256) and not _has(server, sha256):
            client.create_blob(file)
        client.create(model=name, files={file.name: f"sha256:{sha256}"}, template=TEMPLATE)
    return name


def _linked(server: Server, file: Path, sha256: str) -> bool:
    """Whether our server's own folder has the file without a second copy of its bytes."""
    if server.models is None:
        return False
    blob = server.models / "blobs" / f"sha256-{sha256}"
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, blob)
    except FileExistsError:
        return True
    except OSError:  # another file system: the bytes are sent instead
        return False
    return True


def _has(server: Server, sha256: str) -> bool:
    """Whether the server holds these bytes already, as it does those of its own tags."""
    import httpx

    answer = httpx.head(f"{server.address}/api/blobs/sha256:{sha256}", trust_env=False)
    return answer.status_code == 200


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
