"""Is the `gguf` package here, which writes GGUF files and dequantises theirs?"""

from importlib.util import find_spec

from llmbench.errors import Missing


def check_gguf_package() -> None:
    """Raises: Missing, with the command that brings it."""
    if find_spec("gguf") is None:
        raise Missing("models: the gguf package is not installed",
                      why="it writes GGUF files and dequantises their weights",
                      how="pip install 'llmbench[gguf]'")  # fmt: skip
