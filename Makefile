# Every target works in a clean clone with Python 3.11 or newer, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard src/*) setup.py pyproject.toml kacore/_version.py

.DEFAULT_GOAL := help
.PHONY: help demo build test clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 24

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

build/.installed: $(BIN)/python pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet -e '.[test,dev]'
	@mkdir -p build && touch $@ build/.built

build/.built: build/.installed $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

build: build/.built  ## build the extension in place, in .venv

demo: build/.built  ## serve the demo on http://127.0.0.1:8000
	$(BIN)/kacore demo

test: build/.built  ## run the whole test suite
	$(BIN)/pytest -q

clean:  ## remove everything that can be made again
	rm -rf build dist *.egg-info $(VENV) kacore/*.so

# ---- parser ----
.PHONY: fuzz bench-parse bench-instructions
SECONDS ?= 60

fuzz:  ## fuzz the C core for SECONDS=60 (needs clang)
	$(PYTHON) tests/fuzz/run.py --seconds $(SECONDS)

bench-instructions:  ## compare the parser's instruction counts with those kept (needs valgrind)
	$(PYTHON) benches/bench_instructions.py

bench-parse:  ## the parser beside its peers, in .venv-bench (needs libh2o-dev for picohttpparser)
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet 'setuptools>=77' wheel 'Cython>=3.3,<3.4' httptools gunicorn_h1c aiohttp h11
	.venv-bench/bin/pip install --quiet --no-build-isolation .
	.venv-bench/bin/pip download --quiet --no-binary :all: --no-deps --no-build-isolation -d build/peers httptools gunicorn_h1c
	cd build && ../.venv-bench/bin/python ../benches/bench_parse.py
