# Each goal installs what it needs, into .venv; PYTHON names the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: book pdf lab test bench clean

book: .venv/installed  ## execute what is out of date, build the pages, say where they are
	@$(BIN)/ncbook build

lab: .venv/installed  ## chapters and explorers to play with, in JupyterLab
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. notebooks/explore.ipynb

pdf: .venv/installed  ## the pages, and all of them as one PDF, which needs Chromium; say where they are
	@$(BIN)/ncbook build --pdf

test: book  ## every test, and the executed chapters run again and compared (nbval), explore.ipynb executed
	@$(BIN)/python -m pytest -n auto --dist loadfile --nbval --nbval-sanitize-with tests/nbval.cfg \
	    tests executed notebooks/explore.ipynb

bench: .venv/installed  ## stacks against a plain loop, on this machine
	@$(BIN)/python -m tests.benchmarks.bench_sweep exp1
	@$(BIN)/python -m tests.benchmarks.bench_sweep mlp
	@$(BIN)/python -m tests.benchmarks.bench_sweep mlp --dtype bf16

clean:  ## pages and executed notebooks; trained runs are kept
	rm -rf _build executed

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	    "ncbook needs Python 3.11 to 3.13, this is %d.%d: try make PYTHON=python3.12 (or whichever you have)." % sys.version_info[:2])'
	@echo "Installing the pinned packages into .venv: some minutes, once."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --requirement requirements.txt
	@$(PIP) install --no-deps --editable .
	@touch $@
