# One command each. `make help` lists them. PYTHON chooses the interpreter that makes .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLAIN := not slow and not browser and not ollama and not llamacpp
LONG := slow and not exhaustive and not browser and not ollama and not llamacpp
SIDE_BY_SIDE := -n 2 --dist loadfile
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
export HF_HUB_OFFLINE := 1
export PYTHONWARNINGS := ignore::FutureWarning

.PHONY: help setup demo test test-slow test-exhaustive test-browser test-ollama test-llamacpp lab bench kernels lint clean browser ollama llamacpp

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the tested set of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14))' \
	  || { echo "llmbench needs Python 3.11 to 3.13; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing the tested set into $(VENV): some minutes, some gigabytes" >&2
	@if command -v uv >/dev/null; then \
	  [ -x $(BIN)/python ] || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	  uv pip install --python $(BIN)/python -c constraints.txt -e '.[all,dev]'; \
	else \
	  [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[all,dev]'; \
	fi
	@rm -f $(VENV)/.installed-*; touch $@

demo: setup ## From a fresh clone to outputs/demo/report.html, on the CPU, offline
	@$(BIN)/llmbench run params/demo.yaml --run-id demo

test: setup ## Everything that needs no GPU, network or server
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "$(PLAIN)"

test-slow: setup ## The long ones: kills, full disks, notebooks by papermill alone
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "$(LONG)"

test-exhaustive: setup ## What the long ones try some of; then, with nothing beside them, those that time
	@status=0; \
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "exhaustive and not alone" || status=$$?; \
	echo "-- alone: tests whose subject is real time"; \
	$(BIN)/python -m pytest -m "exhaustive and alone" || status=$$?; \
	exit $$status

test-ollama: setup ## Against a real Ollama server (make ollama)
	@$(BIN)/python -m pytest -m "ollama and not llamacpp"

test-llamacpp: setup ## Against llama.cpp itself (make llamacpp), and all engines side by side
	@$(BIN)/python -m pytest -m llamacpp

test-sanitize: setup ## The C++ of the CPU engine under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(BIN)/python -m tests.kernels.under_sanitizers

test-browser: setup ## The report and a notebook in a real browser
	@$(BIN)/python -m pytest -m "browser and not ollama"

browser: ## Install a chromium from the system's packages (Debian, Ubuntu)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

ollama: ## An Ollama server: one on the PATH, the official one, or one built for this CPU
	@scripts/get_ollama.sh

llamacpp: setup ## Build llama.cpp for this very machine into .venv (some minutes, a C++ compiler)
	@scripts/build_llamacpp.sh $(BIN)

lab: setup ## JupyterLab in the notebooks folder
	@$(BIN)/jupyter lab --notebook-dir=notebooks

bench: setup ## The workbench's own costs, each beside a do-nothing baseline
	@$(BIN)/python scripts/bench.py

kernels: setup ## Build the C++ of the CPU engine for this machine, into the cache
	@$(MAKE) --no-print-directory -C kernels

lint: setup ## Format, lint, notebooks without outputs
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/nbstripout --verify --keep-id \
	  --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution" notebooks/*.ipynb

clean: ## Remove what can be made again (never outputs/)
	@rm -rf build *.egg-info .pytest_cache .ruff_cache
