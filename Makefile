# Two commands set everything up on a machine with Python >= 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# Outputs and caches of the demo and the UI; a folder outside the checkout.
export XRAY_DET_HOME ?= $(HOME)/xray_det
# Two cores are shared by workers and data tasks: oversubscribed threads run ten times slower.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0
# Where this is set, each of the ten processes of a training compiles the project anew.
export PYTHONDONTWRITEBYTECODE =
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION = false

.PHONY: help setup demo test test-fast test-slow check format ui lock

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/.ready  ## everything into .venv, from requirements.lock

# uv installs the lock several times faster than pip, and hard-links from its cache; pip checks uv's own hash first.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "xray_det needs Python 3.11 or newer: make PYTHON=python3.x setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps --require-hashes \
		-r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## the main job on the embedded miniature: a few minutes on two cores
	$(BIN)/python experiments/quickstart.py

test-fast: setup  ## for every edit, under two minutes
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not medium and not slow"

test: test-fast  ## everything but the slow ones, under fifteen minutes
	$(BIN)/python -m pytest -q -m "medium and not slow"

test-slow: setup  ## kills, clusters, servers and the demo, under thirty-five minutes
	.ci/debian-packages
	$(BIN)/python -m pytest -q -m slow

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## rewrite the code as `check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup  ## the MLflow UI on localhost
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(XRAY_DET_HOME)/mlflow.db --host 127.0.0.1 --port 5000

lock:  ## pin every dependency with its hash
	test -x $(BIN)/uv || ($(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --extra cluster --extra dev pyproject.toml -o requirements.lock
