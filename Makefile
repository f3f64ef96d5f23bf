# Two commands do all the set-up: `make run` trains the default experiment, `make test` runs the whole check.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# One thread for each test process: tests run side by side.
TEST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help run test check format test-slow test-faults test-gpu index bench clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/.installed  ## install, train the default experiment, say where to look
	$(BIN)/accelerator train

test: check  ## lint, types, layering, and every test but the long ones
	$(TEST) -n 2 -m "not slow and not faults and not gpu"

check: $(VENV)/.installed-dev  ## lint, types and layering, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: $(VENV)/.installed-dev  ## the long tests of everything but faults
	$(TEST) -n 2 -m "slow or faults" --ignore=tests/faults

test-faults: $(VENV)/.installed-dev  ## all fault tests, the long ones too, and write docs/reliability.md
	$(TEST) -n 2 tests/faults --reliability

test-gpu: $(VENV)/.installed-dev  ## the tests that need a CUDA device
	$(TEST) -m gpu

index: $(VENV)/.installed  ## write accelerator/component_index anew, from configs and signatures
	$(BIN)/accelerator add --index

bench: $(VENV)/.installed-bench  ## measure, beside its peers too, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks

clean:  ## remove the environment and all caches; runs and records stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into $(VENV), a minute or two ...'
	$(PIP) --quiet torch==2.13.0 -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into $(VENV), a minute or two ...'
	$(PIP) --quiet torch==2.13.0 -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP) --quiet torch==2.13.0 -e '.[dev,bench]'
	@touch $@
