"""A scripted Ollama server: real answers in the real format, and every way of not giving them.

It reads prompts with the model's own tokenizer and answers with the tokens of TEXT. What goes wrong
is planted as attributes; `raw` replaces the bytes of the next measured answers altogether.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llmbench.models.tokenizer import Tokenizer

TEXT = "    def read_lines(self, path):\n        return self.readlines(path)\n\n    def write"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*lines: bytes) -> bytes:
    """The bytes of a streamed answer of these lines, end included."""
    return OK + b"".join(b"%x\r\n%s\r\n" % (len(x), x) for x in lines) + b"0\r\n\r\n"


class Double:
    """What the server says and plants. A measured request asks for more than one token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens = tokenizer.encode(TEXT)
        self.version, self.window = "0.17.4", None
        self.size, self.size_vram, self.load_ns = 1000, 0, 4_000_000
        self.more = 0  # tokens that it puts before every text
        self.prompts: list[str] = []
        self.seen: set[str] = set()  # of a prefix cache that forgets nothing
        self.prompt_delay_s = 0.0  # for a prompt that is not in that cache
        self.final: dict[str, Any] = {}  # what the last line says otherwise
        self.line: dict[str, Any] = {}  # what every other line says besides
        self.pieces: Callable[[list[str]], list[str]] = lambda texts: texts
        self.raw: bytes | None = None
        self.cut, self.reset = None, False
        self.stalls: list[tuple[int, float]] = []  # (bytes sent, seconds of silence)
        self.refusals: list[tuple[int, dict[str, str], dict[str, str]]] = []

    def lines(self, asked: dict[str, Any]) -> list[bytes]:
        """The lines of the answer to one request."""
        number = asked["options"]["num_predict"]
        texts = [self.tokenizer.token_text(token) for token in self.tokens[:number]]
        measured = number > 1
        said = self.pieces(texts) if measured else texts
        final = {"response": "", "done": True, "done_reason": "length",
                 "load_duration": self.load_ns, "total_duration": 90_000_000,
                 "prompt_eval_duration": 30_000_000,
                 "prompt_eval_count": len(self.tokenizer.encode(asked["prompt"])) + self.more,
                 "eval_count": number, "eval_duration": 50_000_000}  # fmt: skip
        final |= self.final if measured else {}
        besides = self.line if measured else {}
        lines = [{"response": text, "done": False} | besides for text in said]
        return [json.dumps(line).encode() + b"\n" for line in (*lines, final)]


class Handler(BaseHTTPRequestHandler):
    """One connection; `self.server.double` says what happens."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer({})

    def do_GET(self) -> None:
        double = self.server.double
        model = {"model": f"{double.name}:latest", "name": "x", "size": double.size,
                 "size_vram": double.size_vram, "context_length": double.window}  # fmt: skip
        answers = {"/api/version": {"version": double.version}, "/api/ps": {"models": [model]},
                   "/api/tags": {"models": []}}  # fmt: skip
        self.answer(answers[self.path])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        if self.path == "/api/generate":
            self.generate(json.loads(body))
        else:
            self.answer({"status": "success"})

    def generate(self, asked: dict[str, Any]) -> None:
        double = self.server.double
        double.name = asked["model"]
        double.window = double.window or asked["options"]["num_ctx"]
        if not asked["prompt"]:
            return self.answer({"model": asked["model"], "done": True, "done_reason": "load"})
        double.prompts.append(asked["prompt"])
        measured = asked["options"]["num_predict"] > 1
        if measured and double.refusals:
            status, headers, said = double.refusals.pop(0)
            return self.answer(said, status, headers)
        if asked["prompt"] not in double.seen:
            time.sleep(double.prompt_delay_s)
        double.seen.add(asked["prompt"])
        answer = chunked(*double.lines(asked))
        if not measured:
            return self.send(answer)
        self.faulty(double, answer if double.raw is None else double.raw)

    def faulty(self, double: Double, answer: bytes) -> None:
        """Send `answer` with the planted silences, up to the planted cut."""
        sent = 0
        for at, seconds in double.stalls:
            self.send(answer[sent:at])
            sent = at
            time.sleep(seconds)
        self.send(answer[sent : double.cut])
        if double.cut is not None:
            self.end()

    def end(self) -> None:
        """Close the connection; by a reset when that is planted."""
        self.close_connection = True
        if self.server.double.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def send(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError:  # the client has given up
            self.close_connection = True

    def answer(
        self, said: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        text = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


@contextmanager
def serving(tokenizer: Tokenizer) -> Iterator[Double]:
    """A double that answers at `double.host`."""
    double = Double(tokenizer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.double, double.name = double, ""
        double.host = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield double
        finally:
            server.shutdown()
