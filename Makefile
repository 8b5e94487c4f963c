# make demo: install and run the main job.   make test: the whole test suite.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A folder of wheels that pip knows of; uv has to be told.
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))
UV := uv==0.13.9

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo test lint lock bench-seeds clean

install: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OST needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet $(UV)
	@echo "installing into $(VENV) …"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python $(FIND_LINKS) -r requirements.lock -e .
	@touch $@

demo: install ## the whole curation on the built-in world
	@$(BIN)/ost curate

test: install ## linters, import contract, all tests
	@$(BIN)/pytest

bench-seeds: install ## the demo for three seeds, into docs/seeds.json and docs/arms.png
	@$(BIN)/python -m flows.replicate --seeds 0 1 2

lint: install
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/lint-imports

lock: install ## pin what pyproject.toml allows; torch brings its own accelerator libraries
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev $(FIND_LINKS) --no-header --no-annotate \
		--constraint <(echo "torch==2.13.0") pyproject.toml \
		| grep -vE '^(nvidia-|cuda-|triton)' | sed -E 's/^torch==([0-9.]+).*/torch==\1/' | uniq > requirements.lock.part
	@mv requirements.lock.part requirements.lock

clean: ## what runs left; keeps the DVC cache and the record
	@rm -rf world data models scores selections evaluations report metrics
