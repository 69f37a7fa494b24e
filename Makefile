# `make` says what there is. Every target sets up what it needs first; a second run finds that done.
#   PYTHON=…  the Python to make the environment with (3.11 or newer)
#   EXTRA=cuda13  on Linux: the NVIDIA build of MLX
#   PORT=…, ARGS=…  for `make demo`

# An activated environment is used if scripts/setup.sh was run in it; else the project has its own.
VENV ?= $(if $(wildcard $(VIRTUAL_ENV)/.mlx-websockets-setup),$(VIRTUAL_ENV),.venv)
PORT ?= 8765
ARGS ?=
export VENV PYTHON EXTRA

RUN := $(VENV)/bin/python -m

.PHONY: help demo setup test page-test pictures test-cov conformance lint format types contracts docs docs-check lock all build clean
.DEFAULT_GOAL := help

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup ## set up, serve the small demo model, open its page (PORT=8765, ARGS="--debug")
	@$(VENV)/bin/mlx demo --open --port $(PORT) $(ARGS)

setup: ## install the locked packages and this checkout into .venv
	@./scripts/setup.sh --no-hooks

test: setup ## set up, then run the tests (ARGS="tests/cli -x")
	$(RUN) pytest $(ARGS)

page-test: setup ## try the page and the examples in Chromium, which has to be installed (ARGS="-k camera")
	@$(RUN) pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/page.lock
	$(RUN) pytest tests/page tests/examples $(ARGS)

pictures: ## take the pictures of the page that the documentation shows
	MLX_WS_PICTURES=docs/images $(MAKE) page-test ARGS="-k 'drawn_scene or phone'"

test-cov: setup ## the tests, with the lines they miss
	$(RUN) pytest --cov=mlx_websockets --cov-report=term-missing $(ARGS)

conformance: setup ## try the Autobahn cases on the server's listener (fetches their runner)
	@./scripts/conformance.sh

lint: setup ## check style
	$(RUN) ruff format --check
	$(RUN) ruff check

format: setup ## put style right
	$(RUN) ruff format
	$(RUN) ruff check --fix

types: setup ## check types
	$(RUN) mypy

contracts: setup ## check who imports whom
	$(VENV)/bin/lint-imports

docs: setup ## write the parts of the documentation that come from the code
	$(VENV)/bin/python scripts/update_cli_docs.py
	$(VENV)/bin/python scripts/update_limits_docs.py
	$(VENV)/bin/python scripts/update_js_types.py

docs-check: setup ## check that the documentation says what the code does, and that its links lead somewhere
	$(VENV)/bin/python scripts/update_cli_docs.py --check
	$(VENV)/bin/python scripts/update_limits_docs.py --check
	$(VENV)/bin/python scripts/update_js_types.py --check
	$(VENV)/bin/python scripts/check_links.py

lock: ## resolve the dependencies of pyproject.toml anew (ARGS=--upgrade)
	./scripts/lock.sh $(ARGS)

all: format lint types contracts docs-check test page-test ## everything, before a commit

build: setup ## make the wheel and the source archive in dist/
	$(VENV)/bin/hatchling build

clean: ## remove what was built and cached; .venv stays
	rm -rf build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
