"""Real models onto this machine: from a hub, or into the models folder of an Ollama server."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from llmbench.engines.ollama_server import Server, host_from_environment, open_server
from llmbench.errors import BadParams, LlmbenchError, Missing
from llmbench.pulling.hub import pull_from_hub
from llmbench.pulling.tags import pull_tag
from llmbench.pulling.wanted import Pulled, Wanted, wanted

__all__ = ["Pulled", "pull"]

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy",
           "SSL_CERT_FILE")  # fmt: skip


def pull(
    names: Sequence[str],
    *,
    from_hub: bool = False,
    tell: Callable[[str], None] = lambda note: None,
) -> list[Pulled]:
    """Have every model of `names` on this machine; `tell` hears of each as it is done or fails.

    Names are those of `wanted.wanted`. One that fails does not keep the others: they are fetched,
    then its error is raised. Tags go to the server of OLLAMA_HOST, or to one that is started for
    the while. Raises: BadParams, Missing, Unsupported, StoreFailed, EngineLost, StudyFailed.
    """
    if not names:
        raise BadParams("pull: no model is named", how="llmbench models lists those of the catalog")
    pulled, failed = [], []
    wants = wanted(names, from_hub=from_hub)
    with ExitStack() as stack:
        for want, outcome in _each(wants, stack):
            if isinstance(outcome, Pulled):
                pulled.append(outcome)
                tell(f"{want.asked}: {'fetched' if outcome.fetched else 'was there'}")
                continue
            failed.append(outcome)
            if len(wants) > 1:
                tell(f"{want.asked}: {outcome.what}")
    if failed:
        raise _together(failed, pulled)
    return pulled


def _each(
    wants: Iterable[Wanted], stack: ExitStack
) -> Iterator[tuple[Wanted, Pulled | LlmbenchError]]:
    """What became of each; the server is opened for the first tag, and closed by `stack`."""
    server: Server | LlmbenchError | None = None
    for want in wants:
        if want.kind == "tag" and server is None:
            server = _outcome(_server)
            stack.callback(getattr(server, "close", lambda: None))
        if isinstance(server, LlmbenchError) and want.kind == "tag":
            yield want, server
        elif want.kind == "tag":
            yield want, _outcome(pull_tag, want, server)
        else:
            yield want, _outcome(pull_from_hub, want)


def _outcome(act: Callable[..., Any], *given: Any) -> Any:
    """What `act` returns, or its error for people."""
    try:
        return act(*given)
    except LlmbenchError as error:
        return error


def _server() -> Server:
    """Raises: Missing without a server, a client or a program; BadParams for another machine."""
    try:
        import ollama  # noqa: F401 - said before a server is started
    except ImportError:
        raise Missing("pull: the ollama client is not installed",
                      how="pip install 'llmbench[ollama]'") from None  # fmt: skip
    proxies = {name: os.environ[name] for name in PROXIES if name in os.environ}
    return open_server(
        host_from_environment(), allow_remote="", allow_old=False, tuning=proxies
    )  # fmt: skip


def _together(failed: list[LlmbenchError], pulled: list[Pulled]) -> LlmbenchError:
    """The one error, or the first with what became of all."""
    first = failed[0]
    if len(failed) + len(pulled) == 1:
        return first
    kept = f"{len(pulled)} models: {', '.join(one.asked for one in pulled)}" if pulled else ""
    others = [error.what for error in failed[1:]]
    what = "; ".join(dict.fromkeys([first.what, *others]))
    return type(first)(what, why=first.why, kept=kept or first.kept, how=first.how)
