# `make demo` and `make test` do all of their own set-up; everything else assumes nothing either.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
export TOKENIZERS_PARALLELISM ?= false
export LITELLM_LOCAL_MODEL_COST_MAP ?= True
export NO_MKDOCS_2_WARNING ?= 1
# Without compiled files every process that a test starts compiles all sources again: half of the time of test-fast.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-fast test-extras check format docs docs-install docs-serve bench bench-judging bench-engine constraints clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Make .venv with all extras at the versions of constraints.txt.

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet -c constraints.txt --editable ".[all]" --group dev
	touch $@

demo: install ## Train two adapters on a small model and watch the gate decide (about three minutes).
	$(BIN)/harness demo

test: install ## Every test, in a process for each core (at most four).
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

test-fast: install ## The tests that load no torch; under a minute.
	$(BIN)/pytest -m "not slow" -n logical --maxprocesses 4 --dist worksteal

# What MLflow, W&B and the tools of others need is in an environment of its own: MLflow wants an older pyarrow than ours.
EXTRAS := .venv-extras
OTHERS := mlflow wandb model_signing in_toto_attestation securesystemslib

$(EXTRAS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(EXTRAS)/bin/pip install --quiet --editable ".[hub,mlflow,wandb]" pytest pytest-timeout \
	  "model-signing>=1.1" pyopenssl in-toto-attestation securesystemslib
	touch $@

test-extras: $(EXTRAS)/.installed ## A real MLflow server, W&B, and the tools of others that read what is signed.
	$(EXTRAS)/bin/python -c 'import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]' $(OTHERS)
	$(EXTRAS)/bin/pytest tests/test_registry_mlflow.py tests/test_registry_hub.py tests/test_registry_interop.py \
	  tests/test_history_logs.py

check: install ## Lint, types and import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Rewrite the code as ruff wants it.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-install: $(VENV)/.docs

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet -c constraints.txt --group docs
	touch $@

docs: docs-install ## The documentation site in build/site; a broken link or anything from another host is an error.
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml
	@echo "build/site/index.html"

docs-serve: docs-install ## The same on http://127.0.0.1:8000, built anew whenever a page changes.
	$(BIN)/mkdocs serve --config-file docs/site/mkdocs.yml

bench: install ## The validity table of docs/validity.md, by simulation.
	$(BIN)/python benchmarks/validity.py

bench-judging: install ## docs/judging-validity.md, by simulation and on PandaLM's labels: make bench-judging DATA=FOLDER.
	$(BIN)/python -m benchmarks.judging_validity --data $(DATA)

bench-engine: install ## Speed against lm-eval run twice: make bench-engine DATA=FOLDER (see benchmarks/README.md).
	$(BIN)/python benchmarks/engine.py --data $(DATA)

constraints: docs-install ## Write what .venv holds, the packages of the site among it, to constraints.txt.
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) $(EXTRAS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
