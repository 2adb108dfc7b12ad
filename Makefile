# make demo and make test set everything up themselves, in .venv or in the virtual environment that is active.
#   make demo TORCH="torch==2.11.0"        another torch; pip options may follow, as in TORCH="torch --index-url URL"
#   make test PYTHON=python3.12            another Python for .venv
#   make test ARGS="tests/ops -k knn"      only some tests
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?=
ARGS ?=
ARCHITECTURES ?= 90
BIN := $(or $(VIRTUAL_ENV),.venv)/bin
PREPARE = $(PYTHON) tools/prepare.py --torch "$(TORCH)"

.PHONY: help demo test lint types format benchmark wheel extension clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## set up (about 4 minutes, once), then train a transformer on generated shapes, test it and draw figures
	@$(PREPARE) demo
	@$(BIN)/pctransformer demo

test: ## set up, then run all tests (first time about 10 minutes: torch-scatter is compiled)
	@$(PREPARE) test
	@$(BIN)/python -m pytest -q $(ARGS)

lint: ## ruff: style and formatting
	@$(PREPARE) develop
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: ## mypy
	@$(PREPARE) develop
	@$(BIN)/mypy

benchmark: ## time every operator against installed peers, and whole classifiers, one thread; ARGS="--threads 2" etc.
	@$(PREPARE) test
	@mkdir -p runs && rm -f runs/benchmarks.jsonl
	@for script in $$(grep -l 'harness import' tests/benchmarks/*.py); do \
	  $(BIN)/python -m tests.benchmarks.$$(basename $$script .py) --json runs/benchmarks.jsonl $(ARGS) || exit 1; done
	@$(BIN)/python -m tests.benchmarks.report runs/benchmarks.jsonl

wheel: ## dist/: one wheel for every Python, with CUDA for all architectures where nvcc is found
	@$(PREPARE) develop
	@$(BIN)/python -m pip wheel --no-deps --wheel-dir dist . --config-settings cmake.define.PCT_CUDA=AUTO

extension: ## build both libraries into the source tree, for developers with cmake and ninja; nothing is installed
	cmake -S . -B build/tree -G Ninja -DCMAKE_INSTALL_PREFIX=. -DCMAKE_CUDA_ARCHITECTURES="$(ARCHITECTURES)"
	cmake --build build/tree
	cmake --install build/tree

clean: ## remove what was built; .venv and runs/ stay
	rm -rf build dist pctransformer/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
