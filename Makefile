# Everything sets itself up in .venv. An installed torch >= 2.6 in .venv is kept, so a smaller CPU build can be put there first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXPERIMENT ?= experiments/digits.yaml
SEED ?= 0

.PHONY: setup demo test test-slow lint docs bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# The whole method on one experiment: six commands, one printed verdict.
demo: setup
	$(BIN)/gebm train-base $(EXPERIMENT) --seed $(SEED)
	$(BIN)/gebm train-energy $(EXPERIMENT)
	$(BIN)/gebm sample $(EXPERIMENT) --sampler none
	$(BIN)/gebm sample $(EXPERIMENT)
	$(BIN)/gebm verdict

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The key reference is generated from the schema; a test fails when it is stale.
docs: setup
	$(BIN)/python -m gebm_cli.experiment.key_reference > docs/experiment-files.md

bench: setup
	$(BIN)/python tests/benchmarks/training_overhead.py

clean:
	rm -rf $(VENV) build *.egg-info
