MODEL  ?= nemotron_diffusion_plugin/assets/tiny
PORT   ?= 8000
ENGINE ?= vllm
ARGS   ?=

HOST_PYTHON := $(shell command -v python3.11 || command -v python3 || command -v python)
INSTALL     := $(HOST_PYTHON) tests/engines/install.py
# The Python of this checkout's environment; set up on first use, well under a second afterwards.
ENVIRONMENT  = python=$$($(INSTALL) --engine $(ENGINE)) || exit 1
# Lint, types and unit tests need no engine; their tools are in the environment of vLLM.
TOOLS        = python=$$($(INSTALL)) || exit 1

# Both engines, unless one was named.
BENCH_ENGINES = $(if $(filter file,$(origin ENGINE)),vllm sglang,$(ENGINE))

.DEFAULT_GOAL := help
.PHONY: help setup demo serve bench test test-all test-unit test-engine contracts lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  setup, demo, serve, test-engine and contracts take ENGINE=vllm or ENGINE=sglang (now $(ENGINE))"
	@echo "  and ENGINE_VERSION=0.33 for that version of vLLM (docs/versions.md)"
	@echo "  make serve takes MODEL=$(MODEL) PORT=$(PORT) ARGS='options of the engine'"

setup: check-python check-engine  ## set up the engine (for a CPU where there is no GPU) and the tools, outside the tree
	@$(ENVIRONMENT); echo "ready"

demo: check-python check-engine  ## serve the bundled tiny model and ask it one question in all three modes
	@$(ENVIRONMENT); exec "$$python" -m tests.engines.demo --engine "$(ENGINE)" --model "$(MODEL)"

serve: check-python check-engine  ## serve MODEL on PORT; /health turns 200 when it is ready
	@$(ENVIRONMENT); exec "$$python" -m tests.engines.$(ENGINE).launch serve "$(MODEL)" --port "$(PORT)" $(ARGS)

bench: check-python check-engine  ## measure all ways to decode the tiny model, through both engines or ENGINE
	@for engine in $(BENCH_ENGINES); do \
		python=$$($(INSTALL) --engine $$engine) || exit 1; "$$python" -m benchmarks.compare --engine $$engine || exit 1; \
	done

test: check-python  ## lint, types, unit tests, tests through both engines
	@$(TOOLS); exec "$$python" -m tests.run

test-all: check-python  ## the long lane: all of that in full size, and the tests marked long
	@$(TOOLS); exec "$$python" -m tests.run --all

test-unit: check-python  ## the tests that need no engine, in seconds
	@$(TOOLS); exec "$$python" -m tests.run unit

test-engine: check-python check-engine  ## the tests through a real vLLM or SGLang
	@$(ENVIRONMENT); exec "$$python" -m tests.run engine-$(ENGINE) parts-$(ENGINE)

contracts: check-python check-engine  ## what the installed version of the engine breaks, and what to read again
	@$(ENVIRONMENT); exec "$$python" -m tests.engines.$(ENGINE).launch run "$$python" -m tests.contracts --engine $(ENGINE) $(ARGS)

lint: check-python  ## ruff, import-linter and mypy
	@$(TOOLS); exec "$$python" -m tests.run lint types

format: check-python  ## let ruff format the code and fix what it can
	@$(TOOLS); "$$python" -m ruff check --fix . ; exec "$$python" -m ruff format .

clean:  ## remove caches, build outputs and this checkout's thin environments
	@if [ -n "$(HOST_PYTHON)" ]; then $(INSTALL) --remove; fi
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: check-python check-engine
check-python:
	@if [ -z "$(HOST_PYTHON)" ]; then echo "No Python found. Install Python 3.11 (Debian: apt-get install python3.11 python3.11-venv)." >&2; exit 1; fi

check-engine:
	@case "$(ENGINE)" in vllm|sglang) ;; *) echo "ENGINE=$(ENGINE) is not supported; use ENGINE=vllm or ENGINE=sglang." >&2; exit 1;; esac
