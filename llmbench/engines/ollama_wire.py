"""One answer of an Ollama server, line by line, each wait with a deadline of its own.

The server has sent its status 200 before it can know how the answer ends, so only the line with
`done: true` makes an answer whole: an error line, a closed connection or silence is `EngineLost`.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from pydantic import Field

from llmbench.errors import (
    EngineLost,
    LlmbenchError,
    Missing,
    OutOfMemory,
    Refused,
    StudyFailed,
    Unsupported,
)
from llmbench.record import Noun

MAX_LINE = 1 << 20  # bytes; a token's line has some hundred
BUSY_TRIES, BUSY_WAIT_S = 2, 5.0
NOT_SERVED = ("unable to load model", "error loading model", "unsupported model",
              "does not support generate")  # fmt: skip
NO_MEMORY = ("more system memory", "out of memory", "unable to allocate", "cudamalloc failed")


class Deadlines(Noun):
    """Seconds that the server may take; each is a wait of its own."""

    connect_s: float = Field(10.0, gt=0)
    first_s: float = Field(600.0, gt=0)  # request sent → first byte: a model load may be inside
    between_s: float = Field(60.0, gt=0)  # from one piece of an answer to the next
    total_s: float = Field(3600.0, gt=0)  # request sent → last byte


class Wire:
    """A connection to one server. Requests go one after the other."""

    def __init__(self, host: str, port: int, limits: Deadlines, words: Callable[[], str]) -> None:
        self.address = f"{host}:{port}"
        self._limits, self._words = limits, words
        self._connection = http.client.HTTPConnection(host, port, timeout=limits.connect_s)
        self.busy = 0  # how often the last request was turned away before it was served

    def connect(self) -> None:
        """Have a fresh connection, so that opening one is not part of a timed answer."""
        self._connection.close()
        self._connection.timeout = self._limits.connect_s
        try:
            self._connection.connect()
        except OSError as error:
            raise Missing(
                f"engine ollama: no server answers at {self.address}",
                why=self._words() or str(error),
                how=f"OLLAMA_HOST={self.address} ollama serve",
            ) from None

    def lines(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of the streamed answer to a POST, up to and with the one that is `done`.

        Raises: EngineLost, OutOfMemory, Missing, Refused, StudyFailed.
        """
        received, end = 0, time.monotonic() + self._limits.total_s
        try:
            response = self._open(path, body)
            for raw in self._split(response, end):
                line = _parsed(raw)
                received += 1
                yield line
                if line.get("done"):
                    self._finish(response)
                    return
            raise EngineLost("the answer ended without its last line")
        except LlmbenchError as error:
            self._connection.close()
            raise self._told(error, received) from None
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = f"silent for too long: {error}" if isinstance(error, TimeoutError) else error
            raise self._told(EngineLost(f"{why or type(error).__name__}"), received) from None
        except GeneratorExit:
            self._connection.close()  # which ends the server's work
            raise

    def get(self, path: str) -> dict[str, Any]:
        """The whole answer to a GET. Raises: EngineLost."""
        try:
            self._connection.request("GET", path)
            self._wait(self._limits.between_s)
            return orjson.loads(self._connection.getresponse().read(MAX_LINE))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise self._told(EngineLost(f"{path}: {error or type(error).__name__}"), 0) from None

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _open(self, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
        """The response whose status is 200; a busy server is asked again a few times."""
        self.busy, text = 0, orjson.dumps(body)
        while True:
            self._connection.request("POST", path, text, {"Content-Type": "application/json"})
            self._wait(self._limits.first_s)
            response = self._connection.getresponse()
            if response.status == 200:
                return response
            wait = response.getheader("Retry-After", "")
            said = response.read(MAX_LINE)
            if response.status not in (429, 503) or self.busy == BUSY_TRIES:
                raise refusal(response.status, said, str(body.get("model", "")))
            self.busy += 1
            time.sleep(min(float(wait) if wait.isdecimal() else self.busy, BUSY_WAIT_S))

    def _split(self, response: http.client.HTTPResponse, end: float) -> Iterator[bytes]:
        """Lines as they come."""
        rest, patience_s = b"", self._limits.first_s
        while True:
            self._wait(min(patience_s, end - time.monotonic()))
            came = response.read1(1 << 16)
            if not came:
                yield from [rest] * bool(rest)
                return
            patience_s = self._limits.between_s
            *lines, rest = (rest + came).split(b"\n")
            if len(rest) > MAX_LINE:
                raise EngineLost(f"a line of more than {MAX_LINE} bytes")
            yield from lines

    def _finish(self, response: http.client.HTTPResponse) -> None:
        """Read what follows the last line, so that the connection can serve the next request."""
        try:
            response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the answer is whole all the same

    def _wait(self, seconds: float) -> None:
        """How long the socket may be silent from now on. Raises: EngineLost when no time is left.

        http.client lets go of the socket once a response that closes it has been read.
        """
        if seconds <= 0:
            raise EngineLost(f"not done within {self._limits.total_s:g} s")
        if self._connection.sock:
            self._connection.sock.settimeout(seconds)

    def _told(self, error: LlmbenchError, received: int) -> LlmbenchError:
        """The same error, with how far the answer had come and the server's last words."""
        if isinstance(error, EngineLost):
            words = self._words()
            error.why = f"{error.what}; its log ends: {words}" if words else error.what
            error.what = f"engine ollama: lost the server at {self.address}"
            error.kept = f"{received} lines of the answer had come"
            error.how = "the same command tries again with a fresh server"
        elif isinstance(error, OutOfMemory | Unsupported):
            error.why = self._words()
        return error


def _parsed(raw: bytes) -> dict[str, Any]:
    """One line. Raises: EngineLost when it is no JSON object, OutOfMemory, Refused."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise EngineLost(f"a line that is no JSON: {error}") from None
    if not isinstance(line, dict):
        raise EngineLost("a line that is no object")
    if "error" in line:
        raise _failure(str(line["error"]), EngineLost)
    if line.get("remote_host"):
        raise Refused("engine ollama: the model is not on this server",
                      why=f"{line['remote_host']} would answer for it")  # fmt: skip
    return line


def refusal(status: int, said: bytes, model: str) -> LlmbenchError:
    """The error that an HTTP status and its body stand for."""
    try:
        text = str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        text = said[:500].decode(errors="replace")
    if status == 404:
        return Missing(f"engine ollama: the server has no model {model!r}", why=text,
                       how=f"llmbench pull {model}, or ollama pull {model}")  # fmt: skip
    if status == 400 and "context length" in text:
        return Refused(f"engine ollama: {text}", how="a larger num_ctx, or a shorter prompt")
    if status in (429, 503):
        return EngineLost(f"busy: {text}")
    return _failure(text, StudyFailed if status < 500 else EngineLost)


def _failure(text: str, kind: type[LlmbenchError]) -> LlmbenchError:
    """What the server's own words stand for; `kind` when they are none of the known."""
    known = [(NO_MEMORY, OutOfMemory), (NOT_SERVED, Unsupported)]
    named = (k for words, k in known if any(word in text.lower() for word in words))
    found = next(named, None)
    return found(f"engine ollama: {text}") if found else kind(text)
