# Needs Python 3.11 or later and make, nothing else: every target first makes .venv, or finds it up to date.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

QUIET := $(shell [ -t 2 ] || echo -q)
PORT ?= 4200

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all test-faults lint type format bench docs serve constraints clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Make .venv with everything that running and testing need, and nothing outside it

# uv is quicker. Where it cannot be had, or cannot reach what pip can, a pip that knows --group does the same.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	 { echo "$(PYTHON) is not Python 3.11 or later: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing what pyproject.toml and constraints.txt name into .venv"
	@{ $(BIN)/python -m pip install -q -c constraints.txt uv && \
	   UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" \
	   $(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python -c constraints.txt --group dev -e .; } || \
	 { echo "uv cannot do it: pip can, in a minute or two"; \
	   $(BIN)/python -m pip install -q 'pip>=25.1' && \
	   $(BIN)/python -m pip install $(QUIET) -c constraints.txt --group dev -e .; }
	@touch $@

run: setup  ## Hash the sample that the repository ships, measure the codes, publish them
	$(BIN)/hashkiln reindex --dataset sample

test: setup  ## All tests but the slow ones; the tests on real data where HASHKILN_DATA names their folder
	$(BIN)/python -m pytest -m "not slow"

test-all: setup  ## All tests
	$(BIN)/python -m pytest

test-faults: setup  ## Kill, tear, fill and race re-indexing: HASHKILN_FAULTS times (200), on S3 too, and a soak
	HASHKILN_FAULTS=$${HASHKILN_FAULTS:-200} $(BIN)/python -m pytest tests/faults

lint: setup  ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

type: setup  ## Types alone
	$(BIN)/mypy

format: setup  ## Let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## What is timed, each beside its peer; HASHKILN_DATA names the folder of real data
	for name in hamming evaluation neighbours encode ties; do echo "$$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: setup  ## Write docs/methods.md and docs/results.md anew, from the catalogue and the rows in benchmarks/results
	for name in methods results; do $(BIN)/python docs/$$name.py > .venv/page && mv .venv/page docs/$$name.md || exit 1; done

# The server gets a session of its own, so that Ctrl-C ends the worker first: without its server it would not go.
serve: setup  ## Prefect server and worker on loopback, with the deployments of prefect.yaml; Ctrl-C ends both
	@home="$${HASHKILN_HOME:-.hashkiln}"; mkdir -p "$$home/prefect" && home="$$(cd "$$home" && pwd)" && \
	export HASHKILN_HOME="$$home" PREFECT_HOME="$${PREFECT_HOME:-$$home/prefect}" DO_NOT_TRACK=1 && \
	export PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_API_URL="http://127.0.0.1:$(PORT)/api" || exit 1; \
	$(BIN)/python -c "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])" \
	  $(BIN)/prefect server start --host 127.0.0.1 --port $(PORT) & server=$$!; \
	trap 'kill $$server 2>/dev/null; wait $$server' EXIT; trap 'exit 130' INT TERM; \
	until $(BIN)/python -c "import urllib.request as u; u.urlopen('$$PREFECT_API_URL/health')" 2>/dev/null; do \
	  kill -0 $$server || exit 1; sleep 1; done; \
	$(BIN)/prefect work-pool create hashkiln --type process --overwrite && \
	$(BIN)/prefect --no-prompt deploy --all && $(BIN)/prefect worker start --pool hashkiln

constraints: setup  ## Write constraints.txt anew, from what .venv holds: upgrade there, run the tests, then this
	@{ echo "# The versions that were tested together. Made by 'make constraints' from what .venv holds; edit nothing here."; \
	   $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/^\(torch==[^+]*\)+.*/\1/'; } > .venv/constraints
	@! grep -nE '://|@|\+' .venv/constraints || { echo "expected NAME==VERSION on every line" >&2; exit 1; }
	@mv .venv/constraints constraints.txt && touch $(INSTALLED)

clean:  ## Remove .venv and caches. Published tables, models and reports in .hashkiln stay: remove those yourself
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
