"""Hosts, programs and lifelines of a server, without one."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmbench.engines import ollama_server
from llmbench.engines.ollama_server import find_binary, is_loopback, parse_host
from llmbench.errors import BadParams, Missing

# A program that starts another, and both ignore a friendly end.
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, file=sys.stderr, flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.mark.parametrize(
    ("text", "place"),
    [("127.0.0.1:1234", ("127.0.0.1", 1234)), ("http://localhost:80/", ("localhost", 80)),
     ("localhost", ("localhost", 11434)), ("0.0.0.0:5", ("127.0.0.1", 5)), ("[::1]:7", ("::1", 7)),
     ("[::]", ("::1", 11434)), ("example.org", ("example.org", 11434))],
)  # fmt: skip
def test_hosts_are_read_as_ollama_writes_them(text, place):
    assert parse_host(text) == place


@pytest.mark.parametrize("text", ["", ":", "a:b", "a:99999", "https://a:1", "http://a/b:1", "a:-1"])
def test_what_is_no_host_is_refused(text):
    with pytest.raises(BadParams, match="is not name:port"):
        parse_host(text)


@pytest.mark.parametrize(
    ("name", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True),
     ("localhost.example.org", False), ("10.0.0.1", False), ("127.0.0.1.example.org", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(name, here):
    assert is_loopback(name) == here


def test_programs_are_found_in_their_order(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMBENCH_OLLAMA", raising=False)
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="make ollama"):
        find_binary()
    places = [tmp_path / "cache" / "ollama" / "bin" / "ollama", tmp_path / "ollama"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(mode=0o755)
        assert find_binary() == place
    monkeypatch.setenv("LLMBENCH_OLLAMA", str(tmp_path / "elsewhere"))
    with pytest.raises(Missing, match=r"no program ollama at /.*elsewhere"):
        find_binary()


def test_a_server_of_our_own_gets_no_secret_and_no_users_settings(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OLLAMA_NUM_PARALLEL", "OLLAMA_HOST"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = ollama_server._environment(tmp_path, {"OLLAMA_FLASH_ATTENTION": "1"})
    assert "canary" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "3" and environment["OLLAMA_FLASH_ATTENTION"] == "1"
    assert environment["OLLAMA_HOST"] == "127.0.0.1:0" and environment["HOME"] == str(tmp_path)


def held(tmp_path: Path, code: str = STUBBORN) -> tuple[subprocess.Popen, int, int, object]:
    """A program behind a lifeline: launcher, its pid, its child's pid, and what ends it."""
    with (tmp_path / "log").open("w+b") as log:
        command = [sys.executable, "-c", code]
        launcher, pid, end = ollama_server._launch(command, dict(os.environ), log)
        while not (told := (tmp_path / "log").read_text()).endswith("\n"):
            assert launcher.poll() is None
    return launcher, pid, int(told), end


def gone(pid: int) -> bool:
    """Whether a process is gone, as soon as it is."""
    return not psutil.pid_exists(pid) or not psutil.wait_procs([psutil.Process(pid)], 10)[1]


def test_the_lifeline_ends_the_stubborn_and_their_children(tmp_path):
    launcher, pid, child, end = held(tmp_path)
    assert psutil.pid_exists(pid) and psutil.pid_exists(child)
    end()
    assert not psutil.pid_exists(pid)
    assert gone(child) and launcher.poll() is not None
    end()  # twice is once


def test_a_program_that_ends_takes_its_children_with_it(tmp_path):
    quick = STUBBORN.replace("time.sleep(600)\n", "sys.exit(7)\n")
    code = quick.replace("'import time; sys.exit(7)'", "'import time; time.sleep(600)'")
    launcher, _, child, end = held(tmp_path, code)
    assert launcher.wait(10) == 7
    assert gone(child)
    end()


def test_a_command_that_cannot_start_is_told_in_the_log(tmp_path):
    with (tmp_path / "log").open("w+b") as log:
        launcher, pid, end = ollama_server._launch([str(tmp_path)], dict(os.environ), log)
    end()
    assert pid == 0 and launcher.returncode
    assert "Permission denied" in (tmp_path / "log").read_text()
