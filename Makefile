# make demo | test | test-all | sanitize | lint | types | bench | gpu: each makes the environment in .venv if it is missing or its description changed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# The oldest Triton that the kernels support; tests compile them with it too.
OLDEST := 3.6.0

.PHONY: demo test test-all sanitize lint types bench gpu clean

demo: $(READY)
	$(BIN)/fusion demo

# As many at a time as there are cores; `make test WORKERS=0` runs them one after another.
WORKERS ?= auto
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Also what needs a download of gigabytes or takes many minutes.
test-all: $(READY)
	$(BIN)/python -m pytest -m '' -n $(WORKERS) --dist worksteal

# The C++ code for CPUs under AddressSanitizer and UndefinedBehaviorSanitizer, by the tests that call every function of it
# (kernels/build.py). One process, so that the code has several threads; what is captured of a process would be lost with
# the one that a report ends.
SANITIZED := FUSION_SANITIZE=address,undefined FUSION_CACHE_DIR=$(CURDIR)/$(VENV)/sanitized
# Python is no program of theirs, so their runtime has to come first, and libstdc++ with it, whose exceptions it follows.
# No leaks: what Python and torch keep until the process ends would be all of the report.
PRELOADED = LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
CHECKED := any_memory arrays attention buckets convolution infonce infonce_distributed not_finite pooling quantize \
  refused_tensors
sanitize: $(READY)
	$(SANITIZED) $(BIN)/fusion build
	$(SANITIZED) $(PRELOADED) $(BIN)/python -c 'from fusion.kernels import build; build.load("cpu"); build.arrays()'
	$(SANITIZED) $(PRELOADED) $(BIN)/python -m pytest -n 0 --capture=sys -p no:faulthandler -p no:cacheprovider \
	  -m 'not slow and not extra' -k 'not eager' $(CHECKED:%=tests/kernels/test_%.py)

lint: $(READY) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy wants the folders where the import names are: kernels/ is fusion.kernels, csrc/ is fusion.csrc.
types: $(READY)
	rm -rf $(VENV)/types && mkdir -p $(VENV)/types/fusion
	ln -s $(CURDIR)/fusion/* $(CURDIR)/kernels $(CURDIR)/csrc $(VENV)/types/fusion/
	cd $(VENV)/types && ../bin/python -m mypy --config-file $(CURDIR)/pyproject.toml -p fusion

bench: $(VENV)/ready-bench
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only
	$(BIN)/python benchmarks/loading.py --save
	$(BIN)/python benchmarks/busy.py --save
	$(BIN)/python benchmarks/ranks.py --save

# Everything there is to measure on a GPU, in BUDGET seconds: benchmarks/README.md.
BUDGET ?= 460
gpu: $(READY)
	$(BIN)/python benchmarks/gpu_run.py --budget $(BUDGET)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/triton-3.6 --upgrade triton==$(OLDEST) || \
	  echo "no triton $(OLDEST) for this system: the tests that compile with it will be skipped"
	touch $@

$(VENV)/ready-bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
