# Needs python3 (3.11, 3.12 or 3.13) and make; the rest is installed into .venv from the hash locks.
#   make serve ARGS="--rest-port 0"       more flags for the server
#   make serve LOCK=requirements/gpu.lock  for an NVIDIA GPU
PYTHON ?= python3
LOCK ?= requirements/cpu.lock
CONFIG ?= training/examples/tumours.toml
DOCKER ?= docker
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest -q --run-report -m 'not chaos'
BESIDE := tests/bench tests/deploy tests/docs tests/house tests/oracle tests/service/codecs tests/training
INSTALL := @$(PYTHON) requirements/install.py --venv $(VENV)

.DEFAULT_GOAL := help
.PHONY: help serve test train retrain bench chaos image lock format runtime dev

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

runtime:
	$(INSTALL) $(LOCK)

dev:
	$(INSTALL) $(LOCK) requirements/dev.lock

serve: runtime  ## serve models/ on REST 127.0.0.1:8501 and gRPC 127.0.0.1:8500
	@exec $(RUN) -m service serve --models-dir models --default-model tumours $(ARGS)

test: dev  ## lint, types, layering and all tests but chaos; ends with the slowest tests and RUN / NOT RUN
	@echo '== ruff: lint and format'
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@echo '== mypy: types'
	@$(RUN) -m mypy
	@echo '== import-linter: layering'
	@$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@echo '== hadolint: Dockerfile'
	@$(VENV)/bin/hadolint Dockerfile
	@echo '== pytest: everything but chaos, in two processes: what starts servers, and beside it the rest'
	@mkdir -p build; \
	$(PYTEST) $(BESIDE) $(ARGS) >build/test-beside.log 2>&1 & beside=$$!; \
	$(PYTEST) $(BESIDE:%=--ignore=%) $(ARGS); servers=$$?; \
	wait $$beside; beside=$$?; \
	echo '== pytest: the process beside'; cat build/test-beside.log; \
	echo "== pytest ended with $$servers and $$beside (0: all passed, 5: nothing chosen)"; \
	case $$servers$$beside in 00|05|50) ;; *) exit 1 ;; esac

train: runtime  ## train the shipped examples into build/models and compare their weights with the committed ones
	@for config in training/examples/*.toml; do $(RUN) -m training train $$config --models-dir build/models || exit $$?; done
	@PYTHONPATH=. $(RUN) training/examples/compare.py build/models models

retrain: runtime  ## the nightly job: retrain CONFIG (default training/examples/tumours.toml), publish if it is no worse
	@exec $(RUN) -m training retrain $(CONFIG) $(ARGS)

bench: runtime  ## measurements, each printed as one JSON document with both sides (ARGS=batching for one)
	@exec $(RUN) -m bench $(ARGS)

chaos: dev  ## the long form of the chaos suites: faults by the hundred, each of which must be refused
	@exec $(RUN) -m pytest -q -m chaos tests $(ARGS)

image:  ## build the container image convex-scoring
	@exec $(DOCKER) build -t convex-scoring $(ARGS) .

lock:  ## make the hash locks again from requirements/*.in (ARGS=--upgrade for the newest)
	@$(PYTHON) requirements/lock.py $(ARGS)

format: dev  ## format the code and fix what the linter can
	@$(RUN) -m ruff check --fix-only --quiet .
	@$(RUN) -m ruff format .
