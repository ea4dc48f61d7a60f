"""An Ollama tag → in the models folder of a server, which checks every byte it fetches."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmbench import catalog
from llmbench.engines.ollama_server import Server
from llmbench.errors import BadParams, EngineLost, LlmbenchError, Missing, StoreFailed, StudyFailed
from llmbench.models.source import locate
from llmbench.progress import Progress
from llmbench.pulling.room import check_room
from llmbench.pulling.wanted import Pulled, Wanted
from llmbench.units import MiB

SILENCE_LIMIT_S = 300.0
FROM = re.compile(r"^FROM (/.+)$", re.MULTILINE)
NOT_THERE = ("file does not exist", "not found", "invalid model name")
OFFLINE = ("no such host", "dial tcp", "connection refused", "timeout", "unreachable",
           "proxyconnect", "tls:", "connection reset", "EOF")  # fmt: skip
KEPT = "what was fetched so far"
NO_ROOM = ("no space left", "disk quota")
AGAIN = "the same command goes on where this one stopped"


def pull_tag(want: Wanted, server: Server) -> Pulled:
    """Have the tag in the server's models folder.

    Raises: BadParams (no such tag), Missing (the server reaches no registry), StoreFailed (disk),
    EngineLost (the server went away), StudyFailed (what it says otherwise).
    """
    import ollama

    client = ollama.Client(host=server.address, timeout=SILENCE_LIMIT_S)
    with _errors_for_people(want, server):
        known = _listed(client, want.name)
        if known is None:
            if server.models:
                check_room(server.models, want.foreseen_bytes, want.name)
            _fetch(client, want, server)
            fetched, known = True, _listed(client, want.name)
        else:
            fetched = False
        if known is None:
            raise StudyFailed(f"pull: the server says it has fetched {want.name} and lists it not")
        model = _name(client, want.name)
    return Pulled(want.asked, model, known.digest or "", int(known.size or 0), fetched)


def _listed(client: Any, tag: str) -> Any | None:
    """What the server lists of the tag; None when it does not have it."""
    names = {tag, f"{tag}:latest"}
    return next((one for one in client.list().models if one.model in names), None)


def _name(client: Any, tag: str) -> str:
    """What finds the server's own file of the tag: `ollama:<tag>` or `gguf:<file>`.

    Empty where this user cannot read that file: then no engine can serve it.
    """
    told = FROM.search(client.show(tag).modelfile or "")
    file = Path(told[1]) if told else None
    if not file or not os.access(file, os.R_OK):
        return ""
    try:
        if locate(f"ollama:{tag}").samefile(file):
            return f"ollama:{tag}"
    except LlmbenchError:  # in a folder of models that is not looked into
        pass
    return f"gguf:{file}"


def _fetch(client: Any, want: Wanted, server: Server) -> None:
    """Fetch layer by layer; each is checked for room when its size is told, before it comes."""
    bar, layer, last = None, None, ""
    with closing(client.pull(want.name, stream=True)) as events:
        try:
            for event in events:
                last = event.status or last
                if event.digest and event.total and event.digest != layer:
                    layer = event.digest
                    if server.models:
                        left = event.total - (event.completed or 0)
                        check_room(server.models, left, want.name)
                    if bar:
                        bar.__exit__(None, None, None)
                    bar = Progress(f"{want.name}, MiB", event.total // MiB).__enter__()
                if bar and event.digest == layer:
                    bar.reach((event.completed or 0) // MiB)
        finally:
            if bar:
                bar.__exit__(None, None, None)
    if last != "success":
        raise EngineLost(f"pull: the server ended {want.name} with {last!r}, not with success",
                         kept=KEPT, how=AGAIN)  # fmt: skip


@contextmanager
def _errors_for_people(want: Wanted, server: Server) -> Iterator[None]:
    """The client's ways of failing as what a person can do."""
    import httpx
    import ollama

    try:
        yield
    except ollama.ResponseError as error:
        raise told_of(error.error, want) from None
    except ValueError as error:  # no JSON, or not what the client knows
        raise StudyFailed(f"pull: the answer of {server.address} is not understood",
                          why=str(error)[:300], how="make ollama gets one that is known",
                          ) from None  # fmt: skip
    except (ConnectionError, httpx.HTTPError) as error:
        raise EngineLost(f"pull: lost the server at {server.address}", kept=KEPT,
                         why=str(error) or type(error).__name__, how=AGAIN) from None  # fmt: skip


def told_of(said: str, want: Wanted) -> LlmbenchError:
    """The error for people that the server's own words stand for."""
    if any(words in said for words in NO_ROOM):
        return StoreFailed(f"pull: no room for {want.name}", why=said, kept=KEPT,
                           how="free some space, then the same command")  # fmt: skip
    if any(words in said for words in NOT_THERE):
        known = [e.ollama_tag for e in catalog.models().values() if e.ollama_tag]
        near = get_close_matches(want.name, known, n=1)
        return BadParams(
            f"pull: there is no tag {want.name}",
            why=said,
            how=f"did you mean {near[0]}?" if near else "https://ollama.com/library",
        )
    if any(words in said for words in OFFLINE):
        return Missing(f"pull: the server cannot reach where {want.name} is kept", why=said,
                       how=f"with a network {AGAIN}; behind a proxy set HTTPS_PROXY")  # fmt: skip
    return StudyFailed(f"pull: the server does not fetch {want.name}", why=said, how=AGAIN)
