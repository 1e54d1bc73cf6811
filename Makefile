# Everything a contributor runs. Needs Python 3.11 or newer and make; `make setup PYTHON=python3.12` picks another Python.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Stamps: an environment is made again only when what it was made from has changed.
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: setup demo test test-all check docs clean

setup: $(READY)

demo: $(READY)
	$(RUN)/zephyr run recipes/quickstart.yaml --offline

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
