# `make demo` and `make test` do all of the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
MODELS ?= weight_free
BIN = $(VENV)/bin
# The versions that are tested. `export LOCKED=` before `make setup` takes the newest within the ranges instead.
LOCKED ?= constraints.txt
READY = $(VENV)/ready-$(shell cat requirements.txt pyproject.toml $(LOCKED) | cksum | cut -d' ' -f1)

# One more than the cores: tests wait for processes.
WORKERS = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
# Tests start many processes, which are to find their modules compiled.
TESTED = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
LONG_TESTS = $(shell grep -rlE 'IS_LONG|long_test' --include='test_*.py' tests)

.PHONY: help setup demo test test-long lint lock docs clean

help:
	@echo "make demo       the whole way on videos made here (MODELS=pretrained: with the pretrained encoders)"
	@echo "make test       the tests"
	@echo "make test-long  fuzzing, kills, memory and clusters at length: about 30 minutes"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation as a site, in build/site"
	@echo "make setup      the virtual environment in $(VENV) only (LOCKED=: the newest versions, not those of constraints.txt)"
	@echo "make lock       writes the versions in $(VENV) into constraints.txt"

setup: $(READY)
	@# An environment kept outside the checkout must run this checkout's code.
	@$(BIN)/python -I -c 'import pathlib, viper; assert pathlib.Path(viper.__file__).parents[1] == pathlib.Path.cwd()' \
		2>/dev/null || $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

$(READY):
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null \
		|| { echo "viper needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip 'setuptools>=77' wheel
	$(BIN)/pip install --quiet $(if $(LOCKED),--constraint $(LOCKED)) --editable '.[dev]'
	@PYTHON=$(BIN)/python sh scripts/debian_package.sh ffmpeg
	@rm -f $(VENV)/ready-*
	@cat $(LOCKED) /dev/null > $@

demo: setup
	$(BIN)/viper demo --models $(MODELS) --output_folder demo

test: setup
	$(TESTED) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: setup
	VIPER_LONG_TESTS=1 $(TESTED) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -rP $(LONG_TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After `make setup LOCKED=`, or `pip install --upgrade` of something in $(VENV), and a run of the tests.
lock:
	PYTHONPATH=. $(BIN)/python tests/requirements.py > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

docs: setup
	$(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

clean:
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
