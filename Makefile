# Everything runs in a virtual environment of the checkout's own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORK_DIR ?= work_dirs/demo
CONSTRAINTS ?= requirements/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help coverage demo web docs test test-unit test-avx2 test-quick test-gpu test-upstream test-peers lint format clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# -qq hides pip's warnings, which need no action.
INSTALL := $(BIN)/python -m pip install -qq --constraint $(CONSTRAINTS)

$(VENV)/.ready: setup.py $(CONSTRAINTS)
	@echo 'Installing into $(VENV), which takes about a minute'
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo 'Installing what lint and tests need into $(VENV), which takes some minutes'
	@$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## Draw street scenes, train on them, evaluate the fused model
	@$(BIN)/python tools/demo.py --work-dir $(WORK_DIR)

$(VENV)/.ready-web: $(VENV)/.ready
	@$(INSTALL) --editable '.[web]'
	@touch $@

$(WORK_DIR)/last_checkpoint:
	@echo "$(WORK_DIR) has no model: run 'make demo' first, which trains one" >&2; exit 1

web: $(WORK_DIR)/last_checkpoint $(VENV)/.ready-web  ## Show the demo's model on a web page
	@$(BIN)/mmseg-repvgg web "$$(cat $(WORK_DIR)/last_checkpoint)" \
		--config pspnet_repvgg_a0_fast_street --examples data/street/leftImg8bit/test

lint: $(VENV)/.ready-dev  ## Check style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

docs: $(VENV)/.ready-dev  ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# pytest runs twice because a test that loads OpenVINO without `keep_signal_stack` may leave a
# freed signal stack behind, on which the next DataLoader worker that ends kills the process
# (docs/machines.md, "Known crash in OpenVINO").
RUNTIMES := tests/benchmarks tests/export tests/runtime
OTHERS := $(addprefix --ignore=,$(RUNTIMES))
# Two processes, each of which takes whole files, so that fixtures of a file are made once.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

test: lint docs test-unit test-avx2  ## Check style, types and documentation and run every test

test-unit: $(VENV)/.ready-dev  ## Run every test once
	$(PYTEST) $(RUNTIMES)
	$(PYTEST) $(OTHERS)

# Apart from `make test`, since it makes tests that run much Python a fifth slower.
coverage: $(VENV)/.ready-dev  ## Run every test once and print the coverage of the package
	$(PYTEST) --cov --cov-report= $(RUNTIMES)
	$(PYTEST) --cov --cov-append $(OTHERS)

test-quick: lint  ## Check style and types and run the tests that are not slow
	$(PYTEST) -m 'not slow' $(RUNTIMES)
	$(PYTEST) -m 'not slow' $(OTHERS)

# GCC for other processors does not know the flags.
NO_AVX512 := $(if $(filter x86_64,$(shell uname -m)),-mno-avx512f -mno-amx-bf16)

test-avx2: $(VENV)/.ready-dev  ## Run the tests that depend on the instruction set without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 WINOGRAD_CXXFLAGS='$(NO_AVX512)' $(PYTEST) -m isa

test-gpu: $(VENV)/.ready-dev  ## Run the tests that need a CUDA device
	$(BIN)/pytest -m cuda tests/gpu

test-upstream:  ## Run the tests on upstream mmsegmentation 1.2.2 (builds mmcv: 10 to 15 minutes)
	bash tests/upstream.sh $(RUNTIMES)
	bash tests/upstream.sh $(OTHERS)

test-peers:  ## Load and save the checkpoints of timm and mmpretrain (torch with CUDA: 5 GB)
	bash tests/peers.sh

format: $(VENV)/.ready-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environments, caches and the demo's data and results
	rm -rf $(VENV) $(VENV)-upstream $(VENV)-peers data/street $(WORK_DIR)
	rm -rf .pytest_cache .ruff_cache .mypy_cache .coverage *.egg-info build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
