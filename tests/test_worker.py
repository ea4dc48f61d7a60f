"""The parent's handle of a child: whose work counts as the child's."""

import subprocess
import sys

import pytest

from llmbench.worker import Child

BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
BELOW = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"


@pytest.fixture
def child():
    child = Child(1)
    yield child
    child.kill()


@pytest.mark.parametrize("code", [BURN, BELOW], ids=["a server", "its runner"])
def test_the_cpu_time_of_those_that_work_for_a_child_is_the_childs(child, code):
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        server.stdout.readline()
        alone = child.cpu_s()
        child.servers = [server.pid]
        assert child.cpu_s() - alone > 0.45
        server.communicate(b"\n")


def test_a_server_that_is_gone_takes_nothing_of_the_childs_own(child):
    with subprocess.Popen([sys.executable, "-c", ""]) as server:
        pass
    before = child.ask({"do": "nothing"}, 30) and child.cpu_s()
    child.servers = [server.pid]
    assert child.cpu_s() >= before > 0
