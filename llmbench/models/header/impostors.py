"""What a file is that was taken for a weight file, by its first bytes."""

import re
from typing import NamedTuple

HEAD = 512  # bytes; enough for every kind below
AGAIN = "fetch the file again and compare its size and sha256 with those its publisher states"


class Impostor(NamedTuple):
    """What the file is, and what to do about it."""

    what: str
    how: str


_PAGE = Impostor("a web page", "a login or error page was saved in its place: open the address in "
                 "a browser, then fetch the file itself")  # fmt: skip
_PICKLE = "llmbench opens no pickles, which can run code when loaded: look for safetensors or GGUF"
_OLD = Impostor("a GGML file from before GGUF", "look for a GGUF file of the same model")
_KNOWN: tuple[tuple[bytes, Impostor], ...] = (
    (rb"\s*<(?:!doctype|html|head|body|\?xml)", _PAGE),
    (rb"version https://git-lfs\.github\.com/", Impostor(
        "a Git LFS pointer, which stands for a file that was not fetched", "run git lfs pull")),
    (rb".{8}\{\s*\"", Impostor("a safetensors file", "name it so, beside its config.json")),
    (rb"PK\x03\x04", Impostor("a zip archive, as PyTorch's .bin and .pt files are", _PICKLE)),
    (rb"\x80[\x02-\x05]", Impostor("a pickle, as PyTorch's old .bin and .pt files are", _PICKLE)),
    (rb"\{\s*\"schemaVersion\"", Impostor(
        "an Ollama manifest", "the model is the blob that its layer "
        "application/vnd.ollama.image.model names, under blobs/ beside manifests/")),
    (rb"\s*[{\[]\s*[\"{\[]", Impostor("a JSON text, perhaps an error message", AGAIN)),
    (rb"lmgg|fmgg|tjgg|algg", _OLD),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|\xfd7zXZ|BZh", Impostor("a compressed file", "unpack it first")),
    (rb"FUGG", Impostor("GGUF with its bytes swapped", "convert the model on a machine like this")),
)  # fmt: skip


def impostor(head: bytes) -> Impostor:
    """What begins with `head`, the first bytes of a file that is not GGUF."""
    if not head:
        return Impostor("an empty file", AGAIN)
    if not head.strip(b"\0"):
        return Impostor("zeros, as in a download that did not finish", AGAIN)
    for pattern, found in _KNOWN:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return found
    return Impostor(f"{head[:16]!r}", AGAIN)
