# The two commands of the README, on a bare machine: each makes the virtual environment first if it is not there.
# `make quickstart PYTHON=python3.12 VENV=/tmp/venv` uses another Python and another place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: quickstart test test-again lint install install-dev

quickstart: install
	$(BIN)/python -m dinotrain.train +experiment=quickstart

test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# Those that failed the last time, one after another.
test-again: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

lint: install-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# Without a GPU, torch's CPU build is taken where pip can find one: it is a tenth of the size.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	command -v nvidia-smi >/dev/null 2>&1 || $(PIP) torch==2.13.0+cpu 2>/dev/null || true
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@
