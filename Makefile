# make setup | demo | demo-3dsr | demo-object | check | test | docs | screenshots | lint | bench | weights: each makes or reuses .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
# threads that wait between kernels must not take the cores of other processes
export OMP_WAIT_POLICY ?= passive
BIN := $(VENV)/bin

.PHONY: setup system-check demo demo-3dsr demo-object check test lint docs screenshots bench weights clean

setup: $(VENV)/.installed system-check

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found; install one (Debian: apt-get install python3 python3-dev python3-venv) or run make PYTHON=/path/to/python"; exit 1; }
	@command -v c++ >/dev/null || echo "No C++ compiler found: if a package that comes as sources fails, install one (Debian: apt-get install g++)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

system-check: $(VENV)/.installed
	@$(BIN)/python -m difix3d_ns.apps.doctor

demo: setup
	$(BIN)/difix3d demo --output demo

demo-3dsr: setup
	$(BIN)/difix3d demo-3dsr --output demo-3dsr

demo-object: setup
	$(BIN)/difix3d demo-object --output demo-object

# a file's tests stay in one process; what takes longest comes first
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m "not slow" $(PARALLEL)

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration tests/unit tests/gpu $(PARALLEL)
	$(BIN)/python -m pytest tests/viewer

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/house.py
	$(BIN)/python docs/quality.py
	$(BIN)/python docs/protocols.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

weights: $(VENV)/.installed # curation and training of the fixer in the package, measured on unseen scenes
	$(BIN)/difix3d train-prior align --output weights/align
	$(BIN)/difix3d train-prior embedded --output weights/embedded --shards weights/align/shards --start weights/align
	$(BIN)/difix3d train-prior upscale --output weights/upscale

screenshots: setup # of viewer and report, for the docs; needs a browser (Debian: apt-get install chromium)
	$(BIN)/python docs/screenshots.py

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/rasterizer.py

clean:
	rm -rf $(VENV) demo demo-3dsr demo-object site
