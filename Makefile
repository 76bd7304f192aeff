# Two commands: `make run` trains with the amnesia profile, `make test` checks everything. Both set up .venv first.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: setup run test test-all lint figures bench clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed, and none was found; set PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup
	$(BIN)/python train.py +callbacks=amnesia

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto

test-all: lint
	$(BIN)/pytest -n auto -m ''

# The pictures of the README, and the tables beside them; about 8 minutes.
figures: setup
	rm -rf runs/figures
	$(BIN)/python train.py -m model.readout=mean,last model.forget_bias=default,chrono +callbacks=amnesia \
		hydra.sweep.dir=runs/figures
	$(BIN)/python docs/draw_sweep.py runs/figures docs/amnesia_sweep.png

# What everything costs beside the best there is, into benchmarks/RESULTS.md; less than 25 minutes.
bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv
