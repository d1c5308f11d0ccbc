# Everything that is done with this project, from a bare machine with Python 3.11 or 3.12 on. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo up down compose-up compose-down test test-slow drills cluster-test parity bench bench-gpu bench-input bench-check bench-data bench-eval bench-serving screenshots lint audit clean

UV_VERSION := 0.13.9
# The interpreter that is there; none is downloaded.
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$python && break; done)
# A uv that is new enough, else one of our own in .uv/.
UV := $(shell uv --version 2>/dev/null | grep -qE '^uv (0\.(9|[1-9][0-9])|[1-9])\.' && echo uv || echo .uv/bin/uv)
# TensorFlow for the CPU or, after `make setup GPU=1`, for CUDA: the choice stays until GPU=0.
INSTALLED := $(patsubst .venv/.installed-%,%,$(wildcard .venv/.installed-*))
BUILD := $(if $(filter 1,$(GPU)),gpu,$(if $(filter 0,$(GPU)),cpu,$(or $(firstword $(INSTALLED)),cpu)))
PYTEST := -m pytest -p no:cacheprovider
# In processes of their own: TensorFlow keeps what it has built, and all tests in two processes took 16 GB.
MODEL_TESTS := $(addprefix tests/,mask_rcnn training parity serving planning benchmarks)

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.installed-$(BUILD) dags/.venv/.installed  ## Create both environments (GPU=1: with CUDA)

demo: setup  ## Train and compare the zoo on generated pictures, through Airflow (SETTINGS=FILE: another run)
	@dags/.venv/bin/python dags/local/demo.py $(or $(SETTINGS),configs/demo.yaml)

up: setup  ## Start Airflow and MLflow on 127.0.0.1
	@dags/.venv/bin/python dags/local/stack.py up

down: dags/.venv/.installed  ## Stop them, and the steps that run under them
	@dags/.venv/bin/python dags/local/stack.py down

compose-up: | interpreter  ## Start Airflow with Celery, PostgreSQL, Redis, MLflow and an S3 store in containers (docker/.env: settings)
	$(PYTHON) docker/make_secrets.py docker/secrets
	cd docker && export COMMIT=$$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null) && \
		docker compose build mlflow && docker compose up --build --detach --wait

compose-down:  ## Stop them; what they have stored stays in named volumes
	cd docker && docker compose down

test: setup  ## Run the tests; those in a browser skip where Chromium is missing
	dags/.venv/bin/python $(PYTEST) -q -m "not slow" tests/dags
	dags/.venv/bin/python $(PYTEST) -q tests/browser
	.venv/bin/python $(PYTEST) -q -n 2 --dist loadfile -m "not slow" $(MODEL_TESTS)
	.venv/bin/python $(PYTEST) -q -n 2 --dist loadfile -m "not slow and not cluster" --ignore=tests/dags --ignore=tests/browser \
		$(addprefix --ignore=,$(MODEL_TESTS))

test-slow: setup  ## Run the tests that take minutes each
	dags/.venv/bin/python $(PYTEST) -q --timeout 3600 -m slow tests/dags
	.venv/bin/python $(PYTEST) -q --timeout 3600 -m slow --ignore=tests/dags --ignore=tests/browser

drills: setup dags/.venv/.installed-cluster  ## Kill trainings and whatever runs them, fill disks, damage records; write docs/drills.md (ARGS: names, --go-on, --list)
	.venv/bin/python -m tests.drills.report $(ARGS)

cluster-test: setup dags/.venv/.installed-cluster  ## Run the demo's line on a real small cluster, and kill its scheduler and a worker
	.venv/bin/python $(PYTEST) -v -s --timeout 2400 -m cluster tests/cluster

parity: setup  ## Compare the models with the original, and write docs/parity.md (ARGS: other reference files, --help)
	.venv/bin/python -m tests.parity.report $(ARGS)

bench: setup  ## Compare the cost of the models with and without our shortcuts (ARGS: zoo configs, --help)
	.venv/bin/python -m benchmarks.model $(ARGS)

bench-gpu: setup  ## Tabulate what trainings reach on this GPU, ten minutes a call until all is there (ARGS: zoo configs, --help)
	.venv/bin/python -m benchmarks.gpu $(ARGS)

bench-input: setup  ## Compare the cost of the input pipeline with the original's way and Model Garden's (ARGS: --images, --repeats, --help)
	.venv/bin/python -m benchmarks.input_pipeline $(ARGS)

bench-check: setup  ## Compare the cost of check and inspect with that of materialization (ARGS: --coco FOLDER, --help)
	.venv/bin/python -m benchmarks.checking $(ARGS)

bench-data: setup  ## Compare the cost of materialization with Model Garden's (ARGS: --memory, --scaling, --help)
	.venv/bin/python -m benchmarks.materialize $(ARGS)

bench-eval: setup  ## Compare the cost of evaluation with pycocotools', and of pasting with Model Garden's (ARGS: --memory, --verdicts, --help)
	.venv/bin/python -m benchmarks.evaluation $(ARGS)

bench-serving: setup  ## Compare exported models as ONNX files and as SavedModels (ARGS: zoo configs, --help)
	.venv/bin/python -m benchmarks.serving $(ARGS)

screenshots: setup  ## Draw the pictures of docs/images anew, from what the demo has left
	dags/.venv/bin/python tests/browser/screenshots.py

lint: setup  ## Check style, types and the direction of imports
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	cd dags && MYPYPATH=.:local ../.venv/bin/mypy --config-file ../pyproject.toml \
		--python-executable .venv/bin/python maskline_airflow local
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/*.Dockerfile

audit: $(UV)  ## Look both lock files up among known vulnerabilities; the recorded answers are in .ci/audit_answers.toml
	$(PYTHON) .ci/audit.py $(ARGS)

clean:  ## Remove both environments and all caches; keep workspace/
	rm -rf .venv dags/.venv .uv .mypy_cache dags/.mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find tasks tests dags benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Stamps: an environment is synchronized again when its lock file or, on our side, a protobuf schema has changed.
.venv/.installed-$(BUILD): pyproject.toml uv.lock hatch_build.py $(shell find tasks -name '*.proto') | interpreter $(UV)
	$(UV) sync --frozen --extra $(BUILD) --reinstall-package maskline $(if $(wildcard .venv/bin/python),,--python $(PYTHON))
	@rm -f .venv/.installed-* && touch $@

dags/.venv/.installed: dags/pyproject.toml dags/uv.lock | interpreter $(UV)
	$(UV) sync --frozen --project dags $(if $(wildcard dags/.venv/bin/python),,--python $(PYTHON))
	@touch $@

# What the servers and workers of a cluster need beside both environments, which else stay as they are.
dags/.venv/.installed-cluster: .venv/.installed-$(BUILD) dags/.venv/.installed
	$(UV) sync --frozen --inexact --extra $(BUILD) --extra server
	$(UV) sync --frozen --inexact --project dags --extra cluster
	@touch $@

.uv/bin/uv: | interpreter
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv==$(UV_VERSION)

.PHONY: interpreter uv
interpreter:
	@[ -n "$(PYTHON)" ] || { echo "error: neither python3, python3.12 nor python3.11 is Python 3.11 or 3.12;" \
		"install one, or name it: make setup PYTHON=/path/to/python" >&2; exit 2; }
uv:
