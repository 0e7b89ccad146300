# `make demo` and `make test` need Python 3.11 with its venv module; everything else goes into .venv here.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export TIERMESH_HOME ?= $(CURDIR)/.tiermesh

.PHONY: help demo test check lint types proto schemas docs bench chaos clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile

demo: $(VENV)/.run  ## A whole mesh on this machine, on real models
	@$(BIN)/coordinator demo

test: $(VENV)/.dev  ## Every test
	@$(BIN)/python -m pytest -n auto --dist loadgroup

check: lint types test  ## What CI runs

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev
	@$(BIN)/basedpyright

proto: $(VENV)/.dev  ## Regenerate the stubs of proto/tiermesh/v1
	@PATH=$(BIN):$$PATH $(BIN)/python proto/generate.py

schemas: $(VENV)/.dev  ## Regenerate the JSON Schemas of proto/tiermesh/json_schemas
	@$(BIN)/python -m tiermesh.schemas
	@$(BIN)/python -m coordinator.api.schemas

docs: $(VENV)/.dev  ## Write the generated pages of docs/, and build the site into site/; a broken link fails
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.dev  ## Every benchmark; each prints what it measured
	@for script in bench/*/__main__.py; do PYTHONPATH=. $(BIN)/python $$(dirname $$script) || exit 1; done

chaos: $(VENV)/.dev  ## 10,000 requests while devices are killed, stopped and cut off, and work is planned again (needs root, for network namespaces)
	@PYTHONPATH=.:proto $(BIN)/python -m tests.mesh.chaos $(if $(SEED),--seed $(SEED)) $(CHAOS)

clean:  ## Remove the environment and all state of the demo
	rm -rf $(VENV) .tiermesh

$(VENV)/.run: pyproject.toml constraints.txt setup.sh
	@PYTHON=$(PYTHON) ./setup.sh run

$(VENV)/.dev: pyproject.toml constraints.txt setup.sh
	@PYTHON=$(PYTHON) ./setup.sh dev
