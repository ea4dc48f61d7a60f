#!/usr/bin/env bash
# llama.cpp, built for the machine it runs on, into the virtual environment given: `make llamacpp`.
# Does nothing when it is there already and works. Ends with a prompt that is really computed.
set -euo pipefail
readonly VERSION=0.3.36 # of llama-cpp-python; llmbench/engines/llamacpp.py is written for it
cd "$(dirname "$0")/.."
readonly BIN=${1:?usage: build_llamacpp.sh VENV/bin}

there() {
  "$BIN/python" -c 'import sys; from importlib.metadata import version
sys.exit(version("llama_cpp_python") != sys.argv[1])' "$VERSION" 2>/dev/null
}

# GCC's header says of ldtilecfg that it reads 8 bytes, so the rest of the tile configuration is
# optimised away, and the first prompt of a quantised model ends in SIGSEGV. Seen with GCC 12.2.
# Leaving AMX out instead would halve the decoding speed of Q8_0.
tiles_miscompiled() {
  local header
  header=$(c++ -print-file-name=include 2>/dev/null)/amxtileintrin.h
  grep -qw amx_int8 /proc/cpuinfo 2>/dev/null &&
    grep -q 'ldtilecfg.*const void \*\*' "$header" 2>/dev/null
}

try_it() { # a prompt of several tokens on quantised weights: matrices, not vectors alone
  "$BIN/python" - <<'PYTHON'
import llmbench
with llmbench.load("builtin:tiny", "llamacpp", weights="Q8_0", threads=1) as engine:
    engine.next_logprobs(range(1, 33), 1)
    print("works:", engine.served.build)
PYTHON
}

if there; then
  echo "llama.cpp is there already: llama-cpp-python $VERSION"
  exit 0
fi
command -v c++ >/dev/null || { echo "this needs a C++ compiler: apt-get install g++" >&2; exit 3; }
flags=(-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF)
command -v nvcc >/dev/null && flags+=(-DGGML_CUDA=ON)
if tiles_miscompiled; then
  echo "with gcc_tiles.h: $(c++ --version | head -1) miscompiles AMX" >&2
  export CPLUS_INCLUDE_PATH=$PWD/scripts${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
  export CXXFLAGS="-include gcc_tiles.h ${CXXFLAGS:-}"
fi
echo "building llama-cpp-python $VERSION for this machine, ${flags[*]}: some minutes" >&2
export CMAKE_ARGS="${flags[*]}" # and no cache: a wheel kept from elsewhere has other flags
if [ -x "$BIN/pip" ]; then install=("$BIN/python" -m pip install --no-cache-dir)
else install=(uv pip install --no-cache --python "$BIN/python"); fi
"${install[@]}" --quiet -c constraints.txt --no-binary llama-cpp-python "llama-cpp-python==$VERSION"
try_it || { echo "built, but it does not work: see above" >&2; exit 3; }
