# make demo | test | lint | bench | gpu: each makes the environment in .venv if it is missing or its description changed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

.PHONY: demo test lint bench gpu clean

demo: $(READY)
	$(BIN)/fusion demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/ready-bench
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only

# Everything there is to measure on a GPU, in BUDGET seconds: benchmarks/README.md.
BUDGET ?= 460
gpu: $(READY)
	$(BIN)/python benchmarks/gpu_run.py --budget $(BUDGET)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/ready-bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
