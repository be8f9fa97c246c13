MODEL  ?= nemotron_diffusion_plugin/assets/tiny
PORT   ?= 8000
ENGINE ?= vllm
ARGS   ?=

HOST_PYTHON := $(shell command -v python3.11 || command -v python3 || command -v python)
INSTALL     := $(HOST_PYTHON) tests/engines/install.py --engine $(ENGINE)
# The Python of this checkout's environment; set up on first use, well under a second afterwards.
ENVIRONMENT  = python=$$($(INSTALL)) || exit 1

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-unit test-engine lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make serve takes MODEL=$(MODEL) PORT=$(PORT) ENGINE=$(ENGINE) ARGS='options of vllm serve'"

setup: check-python  ## set up vLLM (CPU build where there is no GPU) and the tools, outside the tree
	@$(INSTALL) >/dev/null && echo "ready"

demo: check-python  ## serve the bundled tiny model and ask it one question in all three modes
	@$(ENVIRONMENT); exec "$$python" -m tests.engines.vllm.demo --model "$(MODEL)"

serve: check-python check-engine  ## serve MODEL on PORT; /health turns 200 when it is ready
	@$(ENVIRONMENT); exec "$$python" -m tests.engines.vllm.launch serve "$(MODEL)" --port "$(PORT)" $(ARGS)

test: check-python  ## lint, types, unit tests, tests through the engine
	@$(ENVIRONMENT); exec "$$python" -m tests.run lint types unit engine

test-unit: check-python  ## the tests that need no engine, in seconds
	@$(ENVIRONMENT); exec "$$python" -m tests.run unit

test-engine: check-python  ## the tests through a real vLLM
	@$(ENVIRONMENT); exec "$$python" -m tests.run engine

lint: check-python  ## ruff and mypy
	@$(ENVIRONMENT); exec "$$python" -m tests.run lint types

format: check-python  ## let ruff format the code and fix what it can
	@$(ENVIRONMENT); "$$python" -m ruff check --fix . ; exec "$$python" -m ruff format .

clean:  ## remove caches, build outputs and this checkout's thin environment
	@if [ -n "$(HOST_PYTHON)" ]; then $(INSTALL) --remove; fi
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: check-python check-engine
check-python:
	@if [ -z "$(HOST_PYTHON)" ]; then echo "No Python found. Install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv)." >&2; exit 1; fi

check-engine:
	@if [ "$(ENGINE)" != vllm ]; then echo "ENGINE=$(ENGINE) is not supported; use ENGINE=vllm." >&2; exit 1; fi
