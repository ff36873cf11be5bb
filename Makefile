# make demo   a virtual environment, heeler, and a model trained on real photos
# make test   what continuous integration runs: lint, types, tests
# make test-browser   the tests of pages alone, in a headless browser
# make oldest   the tests with the oldest releases that heeler promises to work with, torch aside
# make docs   the pages of docs/ as a site in site/; a broken link fails
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit oldest browser test-browser docs clean

demo: $(VENV)/.installed-demo
	$(BIN)/heeler demo

test: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -q -m alone

oldest: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q --upgrade --no-deps --target .cache/oldest -r tests/oldest.txt
	PYTHONPATH=.cache/oldest $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" --ignore tests/test_ray.py

test-browser: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -q tests/test_*browser*.py

# What the tests of pages need besides Python packages. Where it cannot be had, they say that they were skipped.
browser: .cache/node_modules/axe-core
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy chromium; } || \
	  echo "no chromium: the tests of pages will be skipped"

.cache/node_modules/axe-core:
	@npm install --prefix .cache --no-save --no-audit --no-fund --silent axe-core || \
	  echo "no axe-core: the test of accessibility will be skipped"

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[demo]"
	touch $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[docs]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[demo,docs,executorch,heic,lite1,openvino,ray,serve,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs site
