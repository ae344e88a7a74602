# Needs only Python 3.11 or later and make: every target first creates .venv or checks that it is up to date.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
WITH_DEV := .venv/installed-dev

QUIET := $(shell [ -t 2 ] || echo -q)
PORT ?= 4200

.DEFAULT_GOAL := help
.PHONY: help setup dev run test test-all test-faults cluster-test lint type format bench bench-check gpu docs serve constraints sbom clean

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Create .venv with what running needs; install nothing outside it

dev: $(WITH_DEV)  ## Add to .venv what tests, lint and benchmarks need

# uv is faster. If it cannot be installed, or cannot reach the indexes that pip can, a pip with --group does the same.
# In the package index, torch for Linux contains CUDA, of 3 GB. Its own index also has one without; uv finds out what fits.
TORCH := https://download.pytorch.org/whl/cpu/torch/
define install
	@if [ -z "$$UV_TORCH_BACKEND" ]; then \
	  if $(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH)', timeout=5)" 2> /dev/null; \
	  then export UV_TORCH_BACKEND=auto; \
	  else echo "$(TORCH) cannot be reached: torch is taken from the package index, on Linux perhaps with CUDA (3 GB more)"; fi; fi; \
	{ $(BIN)/python -m pip install -q -c constraints.txt uv && \
	   UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" \
	   $(BIN)/uv pip install $(QUIET) --compile-bytecode --python $(BIN)/python -c constraints.txt $(1); } || \
	 { echo "uv failed: installing with pip, which takes a minute or two"; \
	   $(BIN)/python -m pip install -q 'pip>=25.1' && \
	   $(BIN)/python -m pip install $(QUIET) -c constraints.txt $(1); }
	@echo "Installed $$($(BIN)/python -m pip list 2> /dev/null | sed 1,2d | wc -l) packages: .venv has $$(du -sh .venv | cut -f1)"
	@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	 { echo "$(PYTHON) is not Python 3.11 or later: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing hashkiln and what it needs into .venv: 170 packages, 2.3 GB, including 0.7 GB of torch for the CPU"
	$(call install,-e .)

$(WITH_DEV): $(INSTALLED)
	@echo "Installing what tests, lint and benchmarks need into .venv: about 2 GB more"
	$(call install,--group dev)

run: setup  ## Encode the sample that ships with the repository, publish the codes, compare them with LSH
	$(BIN)/hashkiln demo

test: dev  ## Run all tests except slow ones; tests on real data need its folder in HASHKILN_DATA
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

test-all: dev  ## Run all tests
	$(BIN)/python -m pytest

test-faults: dev  ## Inject HASHKILN_FAULTS (200) faults into re-indexing, on S3 too, then run a soak test
	HASHKILN_FAULTS=$${HASHKILN_FAULTS:-200} $(BIN)/python -m pytest tests/faults

cluster-test: dev  ## Run the services of infra/compose.yaml on hosts of this machine and break them; as root, on Linux
	$(BIN)/python -m pytest -m cluster tests/cluster

lint: dev  ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

type: dev  ## Check types only
	$(BIN)/mypy

format: dev  ## Fix style and format with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev  ## Run the benchmarks and write docs/performance.md (FULL=1: for an hour); HASHKILN_DATA: folder of real data
	@$(BIN)/python benchmarks/run.py $(if $(FULL),--full); failed=$$?; \
	$(BIN)/python docs/performance.py > .venv/page && mv .venv/page docs/performance.md && exit $$failed

bench-check: dev  ## Measure the ratios to peers again; fail if one has fallen by a quarter against the committed one
	@rm -rf .venv/bench; $(BIN)/python benchmarks/run.py --peers --out .venv/bench; failed=$$?; \
	$(BIN)/python benchmarks/check.py benchmarks/results/performance .venv/bench && exit $$failed

gpu: setup  ## Check and measure what runs on a GPU, in under 6 minutes; writes benchmarks/results/gpu.md and .json
	$(BIN)/python benchmarks/gpu.py

docs: dev  ## Generate the pages that scripts of docs write, and build the site in .venv/site
	for name in commands methods results performance how-to/size how-to/choose; do \
	  $(BIN)/python docs/$$name.py > .venv/page && mv .venv/page docs/$$name.md || exit 1; done
	$(BIN)/zensical build --strict

# The server runs in its own session, so that Ctrl-C ends the worker first: without its server the worker would not end.
serve: setup  ## Start a Prefect server and worker on loopback with the deployments of prefect.yaml; stop: Ctrl-C
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

constraints: dev  ## Write constraints.txt from .venv: upgrade packages there and run the tests first
	@{ echo "# The versions that were tested together. Generated by 'make constraints' from .venv: do not edit."; \
	   $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/^\(torch==[^+]*\)+.*/\1/'; } > .venv/constraints
	@! grep -nE '://|@|\+' .venv/constraints || { echo "constraints.txt: every line must be NAME==VERSION" >&2; exit 1; }
	@mv .venv/constraints constraints.txt && touch $(INSTALLED) $(WITH_DEV)

# A venv of its own, so that what writes the list is not on it.
sbom: setup  ## Write .venv/sbom.json (CycloneDX) with what is installed in .venv, and print the licence of each package
	@test -x .venv/sbom/bin/cyclonedx-py || \
	 { $(PYTHON) -m venv .venv/sbom && .venv/sbom/bin/python -m pip install -q cyclonedx-bom==7.5.0; }
	@.venv/sbom/bin/cyclonedx-py environment $(BIN)/python --output-format JSON --output-file .venv/sbom.json
	@$(BIN)/python docs/licences.py .venv/sbom.json

clean:  ## Remove .venv and caches; tables, models and reports in .hashkiln stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
