#!/usr/bin/env bash
# An Ollama server for this machine, by the first way that works, at once when it is already there:
#   path       one on the PATH
#   cache      one that this script built before
#   installer  the official one, where there is network and the right to install
#   module     the Go module built here, for this CPU: baseline code would be no fair opponent
# Says which way served, with the version. OLLAMA_WAY=module asks for one way alone.
set -euo pipefail

readonly VERSION=0.17.4 MALGO=v0.11.24 FLOOR=0.17.1 # below the floor a crafted file leaks memory
readonly ROOT="${LLMBENCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llmbench}/ollama"
readonly BUILT="$ROOT/bin/ollama"

say() { echo "ollama: $*" >&2; }

version_of() { # BINARY: its version, nothing when it does not run
  OLLAMA_HOST=127.0.0.1:1 "$1" --version 2>/dev/null | grep -Eo '[0-9]+\.[0-9]+\.[0-9]+' | tail -n1
}

serves() { # WAY BINARY: tells it and succeeds when it runs and is not below the floor
  local found
  found=$(version_of "$2") || return 1
  if [[ $(printf '%s\n' "$FLOOR" "$found" | sort -V | head -n1) != "$FLOOR" ]]; then
    say "$2 is version $found; $FLOOR is the oldest that is safe with foreign files"
    return 1
  fi
  echo "ollama $found, by way of $1: $2"
}

by_path() { command -v ollama >/dev/null && serves path "$(command -v ollama)"; }

by_cache() { [[ -x $BUILT ]] && serves cache "$BUILT"; }

by_installer() {
  local script status=0
  if ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
    say "the official installer needs root; you may run it yourself: https://ollama.com/download"
    return 1
  fi
  script=$(mktemp)
  if curl -fsSL --connect-timeout 5 -m 60 https://ollama.com/install.sh -o "$script" 2>/dev/null; then
    sh "$script" >&2 || status=1
  else
    say "the official installer cannot be fetched"
    status=1
  fi
  rm -f "$script"
  ((status == 0)) && serves installer "$(command -v ollama)"
}

headers() { # FOLDER: the C++ headers that the module's archive leaves out
  local malgo
  if ! [[ -e /usr/include/nlohmann/json.hpp && -e /usr/include/stb/stb_image.h ]]; then
    ((EUID == 0)) || { say "first: apt-get install nlohmann-json3-dev libstb-dev"; return 1; }
    { apt-get update -qq; apt-get install -y -qq nlohmann-json3-dev libstb-dev; } >&2 || return 1
  fi
  malgo=$(go mod download -json "github.com/gen2brain/malgo@$MALGO" |
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [[ -n $malgo ]] && mkdir -p "$1" && ln -sfn "$malgo" "$1/miniaudio"
}

native() { # flags for this CPU; the module leaves out the AMX kernels that they would call for
  local flags="-O3 -march=native"
  if c++ -march=native -dM -E -x c++ /dev/null | grep -q __AMX_INT8__; then
    say "note: this CPU's AMX unit is left unused, as it is by the official build"
    flags+=" -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
  fi
  echo "$flags"
}

by_module() {
  local flags
  command -v go >/dev/null || { say "no Go here: https://go.dev/dl, or apt-get install golang"; return 1; }
  command -v c++ >/dev/null || { say "no C++ compiler here: apt-get install g++"; return 1; }
  headers "$ROOT/include" || return 1
  say "building version $VERSION for this CPU: some minutes"
  flags=$(native)
  CGO_CFLAGS="$flags" CGO_CXXFLAGS="$flags -I$ROOT/include" GOBIN="$ROOT/bin" \
    go install -ldflags "-X=github.com/ollama/ollama/version.Version=$VERSION" \
    "github.com/ollama/ollama@v$VERSION" >&2 && serves module "$BUILT"
}

for way in ${OLLAMA_WAY:-path cache installer module}; do
  "by_$way" && exit 0
done
say "no way to a server worked; see above, or https://ollama.com/download"
exit 3
