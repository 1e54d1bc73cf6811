# Everything a contributor runs. Needs Python 3.11 or newer and make; `make setup PYTHON=python3.12` picks another Python.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Stamps: an environment is made again only when what it was made from has changed.
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready
DOCS_READY := $(VENV)/.docs-ready

# `make demo-real FOLDER=...` takes the model from FOLDER/gemma-3-270m, and the data from DATA where that is a folder.
DATA ?= ../shared/data
REAL_MODEL = $(if $(FOLDER),--offline model.name_or_path=$(FOLDER)/gemma-3-270m)
REAL_DATA = $(if $(wildcard $(DATA)),data_dir=$(DATA) \
  sft.data.sources.0.path=sft/alpaca/alpaca_5000.json align.data.sources.0.split=train \
  align.data.sources.0.path=pref/rasbt/instruction-data-with-preference.json align.data.sources.0.max_rows=160)

.PHONY: setup demo demo-real test test-all check docs clean

setup: $(READY)

demo: $(READY)
	$(RUN)/zephyr run recipes/quickstart.yaml --offline

demo-real: $(READY)
	$(RUN)/zephyr run recipes/first-real.yaml $(REAL_MODEL) $(REAL_DATA)

test: $(DEV_READY)
	$(RUN)/python -m pytest --numprocesses auto --dist worksteal

test-all: $(DEV_READY)
	$(RUN)/python -m pytest --numprocesses auto --dist worksteal -m "slow or not slow"

check: $(DEV_READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-cache

docs: $(DOCS_READY)
	$(RUN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site src/*.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d, but Zephyr needs 3.11 or newer; name one: make setup PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(DEV_READY): $(READY)
	$(PIP) --editable '.[dev]'
	touch $@

$(DOCS_READY): $(READY)
	$(PIP) --editable '.[docs]'
	touch $@
