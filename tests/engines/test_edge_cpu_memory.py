"""`impl: cpu` of edge where memory or threads run out: it says so, and goes on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams, OutOfMemory
from tests.engines.test_families import written
from tests.kernels.stored import needs_compiler

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return written(folder, "Mistral", 6, 2, 8, 44, 67, dict(sliding_window=None))


def test_a_cache_larger_than_the_machine_is_no_memory(source):
    always = Path("/proc/sys/vm/overcommit_memory")
    if always.exists() and always.read_text().strip() == "1":
        pytest.skip("this kernel promises any amount of memory")
    decoder = CpuDecoder(source, "auto", "auto", 2)
    with pytest.raises(OutOfMemory):
        decoder.begin(1, 1 << 30)  # most of a terabyte
    with pytest.raises(BadParams, match="so many tokens"):
        decoder.begin(1, 2**31 - 1)


NO_MEMORY = """
import sys
import numpy as np
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams, OutOfMemory
from llmbench.models.source import find_model

decoder = CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 2)
decoder.begin(1, 10)
for _ in range(2):
    try:
        decoder.begin(1000, 1 << 30)
        sys.exit("it began")
    except OutOfMemory:
        pass
    try:
        decoder.logits(np.ones((1, 2), np.int32))
        sys.exit("it computed")
    except BadParams:
        pass
decoder.begin(1, 10)
print(np.isfinite(decoder.logits(np.ones((1, 2), np.int32))).all())
"""


def test_a_cache_that_found_no_memory_is_none(source):
    """In a process of its own: it may crash."""
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, str(source.folder)],
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


NO_ROOM = """
import resource, sys
import numpy as np
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import OutOfMemory
from llmbench.models.source import find_model

ids = np.ones((1, 512), np.int32)
decoder = CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 2)
decoder.begin(1, 600)
first = decoder.logits(ids[:, :3])
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 100_000, resource.RLIM_INFINITY))
for _ in range(2):
    decoder.begin(1, 600)
    try:
        decoder.greedy(ids)
        sys.exit("it computed")
    except OutOfMemory:
        pass
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
decoder.begin(1, 600)
print((decoder.logits(ids[:, :3]) == first).all())
"""

NO_THREADS = """
import resource, sys
from llmbench.engines.edge_cpu import CpuDecoder
from llmbench.errors import BadParams
from llmbench.kernels import cpu
from llmbench.models.source import find_model

cpu.library()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000, resource.RLIM_INFINITY))
try:
    CpuDecoder(find_model(sys.argv[1]), "auto", "auto", 1024)
except BadParams as error:
    print(error.what)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux's count")
@pytest.mark.parametrize(
    ("program", "told"),
    [(NO_ROOM, r"True"), (NO_THREADS, r".*: thread \d+ of 1024 could not be started: .*")],
)
def test_a_process_that_has_no_memory_left_says_so_and_goes_on(source, program, told):
    """In a process of its own: it may crash."""
    done = subprocess.run([sys.executable, "-c", program, str(source.folder)],
                          capture_output=True, text=True, timeout=100, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(told, done.stdout.strip())
