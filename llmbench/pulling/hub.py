"""A model of a Hugging Face hub → its folder in the hub's own cache: pinned, whole, checked.

Only safetensors, their config and tokenizer are fetched: other weight files can run code.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmbench.errors import Missing, StudyFailed, Unsupported
from llmbench.progress import Progress
from llmbench.pulling.hub_errors import errors_for_people
from llmbench.pulling.room import check_room
from llmbench.pulling.wanted import Pulled, Wanted
from llmbench.units import MiB

BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
          "merges.txt", "chat_template.jinja", "model.safetensors.index.json")  # fmt: skip
LOOK_EVERY_S = 0.5


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
    with errors_for_people(want, endpoint):
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
                      how="pip install 'llmbench[hub]'") from None  # fmt: skip
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
