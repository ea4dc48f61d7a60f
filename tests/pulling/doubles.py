"""A small hub and a small Ollama server on the loopback, with every way of failing planted."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": b"w" * 300_000,
         "pytorch_model.bin": b"pickle", "consolidated.safetensors": b"again",
         "onnx/model.safetensors": b"elsewhere", "README.md": b"#"}  # fmt: skip


@dataclass
class Hub:
    """One repository, `org/model`, and what goes wrong."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    refuse: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # by word of a path
    cuts: list[int] = field(default_factory=list)  # bytes after which an answer breaks off
    told_sha256: str | None = None  # of the weights, otherwise than it is
    page: bytes | None = None  # instead of every answer
    seen: Counter = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def listed(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry = {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(".safetensors"):
            sha = self.told_sha256 or hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"size": len(data), "sha256": sha, "oid": sha, "pointerSize": 100}
        return entry


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.double, self.path.partition("?")[0]
        hub.seen[path.rpartition("/")[2]] += 1
        hub.tokens.add(self.headers.get("Authorization", ""))
        refused = next((r for word, r in hub.refuse.items() if word in path), None)
        if hub.page is not None:
            return self.answer(hub.page, headers={"Content-Type": "text/html"})
        if refused:
            return self.answer(b'{"error": "planted"}', refused[0], refused[1])
        if not path.startswith(("/api/models/org/model", "/org/model/")):
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/"):
            return self.answer(json.dumps(self.told(hub, path)).encode())
        name = path.partition(f"/resolve/{SHA}/")[2]
        if name not in hub.files:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        self.file(hub, name)

    def told(self, hub: Hub, path: str) -> Any:
        if "/tree/" in path:
            return [{"type": "file", "path": n} | hub.listed(n) for n in hub.files]
        siblings = [{"rfilename": n, "blobId": hub.listed(n)["oid"]} | hub.listed(n)
                    for n in hub.files]  # fmt: skip
        return {"id": "org/model", "modelId": "org/model", "sha": SHA, "siblings": siblings,
                "private": False, "gated": False, "tags": []}  # fmt: skip

    def file(self, hub: Hub, name: str) -> None:
        data, status = hub.files[name], 200
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                   "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}  # fmt: skip
        asked = self.headers.get("Range")
        if asked and self.command == "GET":
            hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        self.answer(data, status, headers, cut=self.command == "GET" and len(data) > 1000)

    def answer(
        self, data: bytes, status: int = 200, headers: dict[str, str] | None = None,
        cut: bool = False,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.server.double.cuts
        if cut and cuts:
            self.wfile.write(data[: cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(data)


@dataclass
class Registry:
    """An Ollama server that fetches tags: what it has, and the lines of a pull."""

    blob: str = "/nowhere"
    have: list[str] = field(default_factory=list)
    version: str = "0.17.4"
    size: int = 5 * 2**20
    error: str = ""
    success: bool = True
    pulls: list[str] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        half = {"digest": "sha256:aa", "total": self.size, "completed": self.size // 2}
        lines = [{"status": "pulling manifest"}, {"status": "pulling aa"} | half]
        if self.error:
            return [*lines, {"error": self.error}]
        lines.append({"status": "pulling aa"} | half | {"completed": self.size})
        return [*lines, {"status": "success"}] if self.success else lines


class RegistryHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # an answer ends with its connection

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        double = self.server.double
        models = [{"model": name, "name": name, "size": double.size, "digest": "ab" * 32}
                  for name in double.have]  # fmt: skip
        answers = {"/api/version": {"version": double.version}, "/api/tags": {"models": models}}
        self.say(answers[self.path])

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        double = self.server.double
        if self.path == "/api/show":
            return self.say({"modelfile": f"# made\nFROM {double.blob}\n", "model_info": {}})
        double.pulls.append(asked["model"])
        lines = double.lines()
        if lines[-1].get("status") == "success":
            double.have.append(asked["model"])
        self.say(*lines)

    def say(self, *lines: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@contextmanager
def serving(double: Any, handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """`name:port` at which `double` is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.double = True, double
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
