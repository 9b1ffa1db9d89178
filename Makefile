# Everything runs in a virtual environment of the checkout's own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORK_DIR ?= work_dirs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-avx2 test-quick test-gpu test-upstream test-peers lint format clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# Of pip's lines only errors: it has warnings that are nothing to act on.
INSTALL := $(BIN)/python -m pip install -qq --constraint requirements/constraints.txt

$(VENV)/.ready: setup.py requirements/constraints.txt
	@echo 'Installing into $(VENV), which takes about a minute'
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo 'Installing what lint and tests need into $(VENV), which takes some minutes'
	@$(INSTALL) --editable '.[dev]'
	@touch $@

DEMO := configs/pspnet_repvgg_a0_fast_street.py

demo: $(VENV)/.ready  ## Draw street scenes, train on them, evaluate the fused model
	@$(BIN)/python tools/make_street_scenes.py data/street
	@$(BIN)/python tools/train.py $(DEMO) --work-dir $(WORK_DIR)
	@checkpoint=$$(cat $(WORK_DIR)/last_checkpoint) && \
	$(BIN)/python tools/compare_forms.py $(DEMO) "$$checkpoint" --work-dir $(WORK_DIR) && \
	printf '%s\n' '' 'Next, you could' \
		'  paint the predictions over the test images:' \
		"    $(BIN)/python tools/test.py $(DEMO) $$checkpoint --show-dir painted" \
		'  see what the Winograd engine gains on this CPU:' \
		"    $(BIN)/python tools/compare_forms.py $(DEMO) $$checkpoint --engine winograd" \
		'  draw the curves of the training:' \
		"    $(BIN)/python tools/plot_log.py $(WORK_DIR) -o curves.png"

lint: $(VENV)/.ready-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes: after OpenVINO and int8 on AMX a signal, such as that of a DataLoader's worker
# that ends, has killed the process that trained next.
RUNTIMES := tests/benchmarks tests/export

test: lint  ## Check style and types and run every test
	$(BIN)/pytest $(RUNTIMES)
	$(BIN)/pytest $(addprefix --ignore=,$(RUNTIMES))
	$(MAKE) test-avx2

test-quick: lint  ## The same without the slow tests
	$(BIN)/pytest -m 'not slow' $(RUNTIMES)
	$(BIN)/pytest -m 'not slow' $(addprefix --ignore=,$(RUNTIMES))

# GCC for other processors does not know the flag.
NO_AVX512 := $(if $(filter x86_64,$(shell uname -m)),-mno-avx512f)

test-avx2: $(VENV)/.ready-dev  ## Run the tests that depend on the instruction set without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 WINOGRAD_CXXFLAGS=$(NO_AVX512) $(BIN)/pytest -m isa

test-gpu: $(VENV)/.ready-dev  ## Run the tests that need a CUDA device
	$(BIN)/pytest -m cuda tests/gpu

test-upstream:  ## Run the tests on upstream mmsegmentation 1.2.2 (builds mmcv: 10 to 15 minutes)
	bash tests/upstream.sh $(RUNTIMES)
	bash tests/upstream.sh $(addprefix --ignore=,$(RUNTIMES))

test-peers:  ## Load and save the checkpoints of timm and mmpretrain (torch with CUDA: 5 GB)
	bash tests/peers.sh

format: $(VENV)/.ready-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environments, caches and the demo's data and results
	rm -rf $(VENV) $(VENV)-upstream $(VENV)-peers data/street $(WORK_DIR)
	rm -rf .pytest_cache .ruff_cache .mypy_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
