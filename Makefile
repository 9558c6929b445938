# `make demo` and `make test` need make, git and Python 3.11 or later. Everything else they fetch by themselves, into a
# virtual environment outside the tree, keyed by the pinned requirements and by the path of this tree.

SHELL := /bin/sh
ROOT := $(CURDIR)
# The environments, caches and data of this tree; `make clean` removes it.
HOUSE := $(shell . '$(ROOT)/scripts/house.sh' && house '$(ROOT)')

# Start-up time is part of what is tested, so compiled modules are kept; not in the tree, though.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(HOUSE)/pycache
export MYPY_CACHE_DIR := $(HOUSE)/mypy
export RUFF_CACHE_DIR := $(HOUSE)/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(HOUSE)/hypothesis
export COVERAGE_FILE := $(HOUSE)/coverage/data
export COVERAGE_RCFILE := $(ROOT)/pyproject.toml

DEV = $(HOUSE)/dev/bin
DEMO = $(HOUSE)/demo/bin
BENCH = $(HOUSE)/bench/bin

.DEFAULT_GOAL := help
.PHONY: help demo test e2e kind-up kind-down check format bench generate requirements clean dev-env demo-env bench-env

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: demo-env ## Shuffle 20,000 photographs with two workers, prove it, and draw a picture of it
	@'$(DEMO)/python' '$(ROOT)/examples/demo/demo.py' $(if $(DEMO_ARGS),$(DEMO_ARGS),--cache '$(HOUSE)/demo-data')

test: dev-env ## Run every layer of tests that this machine can carry, with coverage (LAYERS="unit local" picks some)
	@cd '$(ROOT)' && '$(DEV)/python' scripts/layers.py $(LAYERS) $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

check: dev-env ## Format, lint, types, import contracts, generated files
	@cd '$(ROOT)' && PATH='$(DEV)':"$$PATH" sh scripts/check.sh

format: dev-env ## Format the code and take the fixes that ruff is sure of
	@cd '$(ROOT)' && '$(DEV)/ruff' format . && '$(DEV)/ruff' check --fix .

bench: bench-env ## Compare with cp, GNU tar, a tarfile script and webdataset on this machine
	@cd '$(ROOT)' && '$(BENCH)/python' -m benchmarks $(BENCH_ARGS)

e2e: dev-env ## Run the tests on a real cluster: kind, or the one that DSORT_TEST_KUBECONFIG names
	@cd '$(ROOT)' && '$(DEV)/python' scripts/layers.py e2e $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

kind-up: ## Bring a kind cluster up (built here where no image can be pulled); prints its kubeconfig
	@'$(ROOT)/tests/kind/up'

kind-down: ## Take it away with all that came with it
	@'$(ROOT)/tests/kind/down'

generate: dev-env ## Write crds/ from the models, and the chart's files from them
	@cd '$(ROOT)' && '$(DEV)/python' -m dsort_api.crd --write crds && '$(DEV)/python' scripts/chart_files.py --write

requirements: dev-env ## Pin requirements/*.txt to pyproject.toml (UPGRADE=1: to the newest)
	@UV='$(DEV)/uv' '$(ROOT)/scripts/requirements.sh'

clean: ## Remove the environments, caches and demo data of this tree
	rm -rf '$(HOUSE)'

dev-env demo-env bench-env:
	@'$(ROOT)/scripts/venv.sh' '$(HOUSE)/$(@:-env=)' '$(@:-env=)'
