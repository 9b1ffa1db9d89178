# Everything runs in a virtual environment of the checkout's own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORK_DIR ?= work_dirs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-upstream test-peers lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(VENV)/.ready: setup.py requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## Draw street scenes, train on them, evaluate the fused model
	$(BIN)/python tools/make_street_scenes.py data/street
	$(BIN)/python tools/train.py configs/pspnet_repvgg_a0_street.py --work-dir $(WORK_DIR)
	$(BIN)/python tools/compare_forms.py configs/pspnet_repvgg_a0_street.py \
		"$$(cat $(WORK_DIR)/last_checkpoint)" --work-dir $(WORK_DIR)

lint: $(VENV)/.ready-dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes: after OpenVINO and int8 on AMX a signal, such as that of a DataLoader's worker
# that ends, has killed the process that trained next.
RUNTIMES := tests/analysis tests/export

test: lint  ## Check style and types and run every test
	$(BIN)/pytest $(RUNTIMES)
	$(BIN)/pytest $(addprefix --ignore=,$(RUNTIMES))

test-quick: lint  ## The same without the slow tests
	$(BIN)/pytest -m 'not slow' $(RUNTIMES)
	$(BIN)/pytest -m 'not slow' $(addprefix --ignore=,$(RUNTIMES))

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
