# `make convert` and `make test` are all that a fresh machine with Python 3.11 and make needs.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: convert test test-all check clean

convert: $(STAMP) ## Run the main job on the embedded default recipe.
	$(BIN)/edgeres convert

test: $(STAMP) ## Everything that CI runs: format, lint, types, tests.
	scripts/check $(BIN)

test-all: $(STAMP) ## The same with the slow tests.
	EDGERES_TEST_ALL=1 scripts/check $(BIN)

check: test

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar on "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --progress-bar on --editable ".[all,dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) runs dist build
