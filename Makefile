# Everything a developer or a newcomer runs. `make run` and `make test` need nothing but Python 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trimtab needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing trimtab into $(VENV) (the first time takes a few minutes)"
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet -e '.[engine,embed]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@$(BIN)/pip install --quiet --group test
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@$(BIN)/pip install --quiet --group check
	@touch $@

run: $(VENV)/.base  ## install, fetch the default model, serve on 127.0.0.1:4000
	@$(BIN)/trimtab serve $(ARGS)

test: $(VENV)/.test  ## install what the tests need and run them (ARGS=... goes to pytest)
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.check  ## format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(VENV)/.check  ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: $(VENV)/.test  ## a few requests through the openai client, and their receipts
	@$(BIN)/trimtab demo $(ARGS)

bench: $(VENV)/.test  ## every benchmark, into benchmarks/results/
	$(BIN)/python benchmarks/all.py $(ARGS)

clean:  ## remove what building and testing leave behind
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: help run test check format demo bench clean
