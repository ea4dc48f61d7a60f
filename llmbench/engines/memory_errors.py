"""torch's ways of saying that there is no memory, as one error."""

from collections.abc import Iterator
from contextlib import contextmanager

from llmbench.errors import OutOfMemory

WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")  # the last: mmap's


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's ways of saying that there is no memory into OutOfMemory."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"Python could not allocate: {error}") from error
    except RuntimeError as error:
        text = str(error)
        if any(words in text.lower() for words in WORDS):
            raise OutOfMemory(text.splitlines()[0]) from error
        raise
