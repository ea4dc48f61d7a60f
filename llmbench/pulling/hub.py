"""A model of a Hugging Face hub → its folder in the hub's own cache: pinned, whole, checked.

Only safetensors, their config and tokenizer are fetched: other weight files can run code.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmbench import catalog
from llmbench.errors import BadParams, LlmbenchError, Missing, StoreFailed, StudyFailed, Unsupported
from llmbench.progress import Progress
from llmbench.pulling.room import check_room
from llmbench.pulling.wanted import Pulled, Wanted
from llmbench.units import MiB

BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
          "merges.txt", "chat_template.jinja", "model.safetensors.index.json")  # fmt: skip
LOOK_EVERY_S = 0.5
KEPT = "the files that came whole"
AGAIN = "the same command fetches the rest"


def pull_from_hub(want: Wanted) -> Pulled:
    """Have `want` in the hub's cache on this machine.

    Raises: BadParams (no such model or revision), Missing (token, licence, offline, a hub that
    fails), Unsupported (no safetensors), StoreFailed (disk), StudyFailed (damaged on the way).
    """
    hub = _library()
    cache = Path(hub.constants.HF_HUB_CACHE)
    if hub.constants.is_offline_mode():
        return _cached(hub, want, cache)
    endpoint = os.environ.get("HF_ENDPOINT", hub.constants.ENDPOINT).rstrip("/")
    with _errors_for_people(want, endpoint):
        info = hub.HfApi(endpoint=endpoint).model_info(
            want.name, revision=want.revision or None, files_metadata=True
        )
        files = {one.rfilename: one for one in info.siblings if _is_needed(one.rfilename)}
        _check_weights(want, files, [one.rfilename for one in info.siblings])
        missing = [name for name in files if not _path(hub, want, info.sha, name, cache)]
        needed = sum(files[name].size or 0 for name in missing)
        check_room(cache, needed, want.name)
        with _shown(want.name, needed, cache / f"models--{want.name.replace('/', '--')}"):
            folder = hub.snapshot_download(
                want.name, revision=info.sha, allow_patterns=list(files), cache_dir=cache,
                endpoint=endpoint,
            )  # fmt: skip
        for name in missing:
            _check_whole(Path(folder) / name, files[name], want)
    total = sum(one.size or 0 for one in files.values())
    return Pulled(want.asked, folder, info.sha, total, fetched=bool(missing))


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise Missing("pull: huggingface_hub is not installed",
                      how="pip install 'llmbench[transformers]'") from None  # fmt: skip
    disable_progress_bars()  # ours are shown
    return huggingface_hub


def _is_needed(name: str) -> bool:
    """Weights as safetensors and what is read beside them; not a second copy of the weights."""
    weights = name.endswith(".safetensors") and not name.startswith(("consolidated", "adapter"))
    return "/" not in name and (weights or name in BESIDE)


def _check_weights(want: Wanted, files: dict[str, Any], there: list[str]) -> None:
    """Raises: Unsupported when there is nothing that llmbench loads."""
    if any(name.endswith(".safetensors") for name in files) and "config.json" in files:
        return
    others = [n for n in there if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".gguf"))]
    raise Unsupported(
        f"pull: {want.name} has no config.json with *.safetensors beside it",
        why=f"it has {', '.join(others[:3]) or 'no weights'}; llmbench fetches no files that can "
        "run code when loaded",
        how="a GGUF file can be fetched by hand and named gguf:<file>",
    )


def _path(hub: Any, want: Wanted, revision: str, file: str, cache: Path) -> str | None:
    """Where a file of that revision lies; None when it is not whole on this machine."""
    found = hub.try_to_load_from_cache(want.name, file, cache_dir=cache, revision=revision)
    return found if isinstance(found, str) else None


def _cached(hub: Any, want: Wanted, cache: Path) -> Pulled:
    """What an earlier pull left, the newest of it, without asking anybody. Raises: Missing."""
    repositories = hub.scan_cache_dir(cache).repos if cache.is_dir() else ()
    there = [one for repository in repositories if repository.repo_id == want.name
             for one in repository.revisions
             if want.revision in ("", one.commit_hash, *one.refs)
             and _is_whole(Path(one.snapshot_path))]  # fmt: skip
    if not there:
        raise Missing(
            f"pull: {want.name} is not whole on this machine, and HF_HUB_OFFLINE forbids to fetch",
            how=f"HF_HUB_OFFLINE=0 llmbench pull {want.asked}",
        )
    newest = max(there, key=lambda one: one.last_modified)
    return Pulled(want.asked, str(newest.snapshot_path), newest.commit_hash,
                  newest.size_on_disk, fetched=False)  # fmt: skip


def _is_whole(folder: Path) -> bool:
    """Whether config and all weights are there, by the list of parts where there is one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        parts = {path.name for path in folder.glob("*.safetensors")}
    return bool(parts) and all((folder / name).is_file() for name in ("config.json", *parts))


@contextmanager
def _shown(label: str, needed: int, folder: Path) -> Iterator[None]:
    """Progress in MiB, read from what lies in the cache: the same for every way of transfer."""
    stop, before = threading.Event(), _lying(folder)
    with Progress(f"{label}, MiB", needed // MiB) as bar:

        def look() -> None:
            while not stop.wait(LOOK_EVERY_S):
                bar.reach((_lying(folder) - before) // MiB)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        bar.reach(needed // MiB)


def _lying(folder: Path) -> int:
    """Bytes of the blobs there, whole and in part."""
    total = 0
    for path in folder.glob("blobs/*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return total


def _check_whole(path: Path, told: Any, want: Wanted) -> None:
    """Raises: StudyFailed when the bytes are not those of the hub; they are put aside."""
    size = path.stat().st_size
    expected = told.lfs.sha256 if told.lfs else None
    found = _sha256(path) if expected else None
    if found == expected and told.size in (None, size):
        return
    blob = path.resolve()
    aside = blob.with_name(f"{blob.name}.damaged")
    os.replace(blob, aside)
    path.unlink()
    raise StudyFailed(
        f"pull: {want.name}: {path.name} was damaged on the way",
        why=f"expected {told.size} bytes with sha256 {expected}, found {size} with {found}",
        kept=f"the damaged file, as {aside.name}", how=f"llmbench pull {want.asked}",
    )  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _errors_for_people(want: Wanted, endpoint: str) -> Iterator[None]:
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
