"""A hub's ways of failing → errors for people: what it is, and what to do. Never with a token."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from llmbench import catalog
from llmbench.errors import BadParams, LlmbenchError, Missing, StoreFailed
from llmbench.pulling.wanted import Wanted

KEPT = "the files that came whole"
AGAIN = "the same command fetches the rest"


@contextmanager
def errors_for_people(want: Wanted, endpoint: str) -> Iterator[None]:
    """The library's ways of failing as what a person can do; no token is ever in a message."""
    try:
        yield
    except LlmbenchError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise told_of(error, want, endpoint) from None
    except Exception as error:  # the HTTP client's own kinds, which differ between versions
        if not type(error).__module__.startswith(("httpx", "requests", "huggingface_hub")):
            raise
        raise _unreachable(endpoint, type(error).__name__) from None


def told_of(error: Exception, want: Wanted, endpoint: str) -> LlmbenchError:
    """The error for people that one of the library's stands for."""
    from huggingface_hub import errors

    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    page = f"{endpoint}/{want.name}"
    if isinstance(error, errors.HFValidationError):
        return BadParams(f"pull: {want.name!r} is no owner/name of a hub", why=str(error))
    if isinstance(error, errors.GatedRepoError):
        return Missing(
            f"pull: {want.name} is given only to those who accept its licence",
            how=f"accept it at {page}, then set HF_TOKEN to a token of that account",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BadParams(
            f"pull: {want.name} has no revision {want.revision!r}",
            how=f"{page}/commits lists them; without @revision the newest is taken",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return BadParams(
            f"pull: the hub has no {want.name}, or it is private",
            how=f"{_nearest(want.name)}for a private one set HF_TOKEN",
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        return BadParams(f"pull: {want.name} lacks a file that its list names", how=AGAIN)
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return Missing(
            f"pull: the hub does not accept the token for {want.name}",
            why="no token, or an invalid one",
            how="set HF_TOKEN to a valid token, or unset it for public models",
        )
    if status is not None:
        return Missing(
            f"pull: the hub answered {status} for {want.name}",
            why="it turns requests away" if status == 429 else "",
            how=AGAIN,
        )
    return _of_system(error, want, endpoint)


def _of_system(error: Exception, want: Wanted, endpoint: str) -> LlmbenchError:
    """What is left: the disk, the network, or somebody who answers in the hub's place."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return StoreFailed(
            f"pull: {want.name} cannot be written: {error.strerror}",
            kept=KEPT,
            how="free space, or move HF_HOME",
        )
    if isinstance(error, ValueError):
        return Missing(f"pull: what answers at {endpoint} is no hub",
                       why=f"its answer is no JSON ({type(error).__name__}): a proxy's page?",
                       how="check HF_ENDPOINT and the proxy's settings")  # fmt: skip
    return _unreachable(endpoint, str(error)[:200] or type(error).__name__)


def _unreachable(endpoint: str, why: str) -> Missing:
    return Missing(f"pull: the hub at {endpoint} cannot be reached, or fell silent", why=why,
                   kept=KEPT, how=AGAIN)  # fmt: skip


def _nearest(name: str) -> str:
    """'did you mean X? ' of the catalog's; empty when nothing is near."""
    known = [i for e in catalog.models().values() for i in (e.hf_id, *e.hf_variants) if i]
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}? " if near else ""
