# Everything here sets itself up: a fresh Debian or Ubuntu with Python 3.11, make and apt is enough.
# `make` alone lists the targets.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The extras that work in this checkout needs.
EXTRAS := embedded,method,dev
# Where Fashion-MNIST lies; Debian's dataset-fashion-mnist puts it here.
FASHION_MNIST ?= /usr/share/datasets/fashion-mnist
# More arguments for pytest, e.g. PYTEST_ARGS='-x -k storage'
PYTEST_ARGS ?=
# Tests run in so many processes, a file in one of them.
TEST_PROCESSES ?= 2
# As root directly, else through sudo.
APT_GET := $(if $(filter 0,$(shell id -u)),,sudo )apt-get

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/.installed ## Make the virtual environment in .venv

# torch first: the largest download, and what most of the others are built on.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11, or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { $(APT_GET) update && $(APT_GET) install -y $(notdir $(PYTHON))-venv; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

.PHONY: test
test: lint ## Check style, types and layers, then run the tests
	$(BIN)/pytest -m 'not slow and not real_size' -n $(TEST_PROCESSES) --dist loadfile --durations=10 $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: install ## Only the tests, up to the first failure, the last failures first
	$(BIN)/pytest -m 'not slow and not real_size' --exitfirst --failed-first --quiet $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: install ## The slow tests, and those that need models or data of the published size
	$(BIN)/pytest -m 'slow or real_size' --durations=0 $(PYTEST_ARGS)

.PHONY: test-full
test-full: lint ## Everything: style, types, layers, every test, slow ones and those of the published size too
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --durations=25 $(PYTEST_ARGS)

.PHONY: lint
lint: install ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: install ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: demo
demo: install ## Everything on this machine: before, a round over HTTP, the gate's verdict, the swap, after, a report
	$(BIN)/fashiondpo demo --run runs/demo
	@echo "Open runs/demo/report.html; runs/demo/before-and-*.png shows the same outfits before and after"

.PHONY: up
up: install ## Start generator, judges, trainer, worker and Valkey on this machine; Ctrl-C stops them
	$(BIN)/fashiondpo up --run runs/up

.PHONY: images
images: install ## Build the services' images for the CPU, without Docker, and run them all (root, Debian's packages)
	@{ command -v buildah && command -v debootstrap; } >/dev/null \
	  || { $(APT_GET) update && $(APT_GET) install -y buildah debootstrap debian-archive-keyring; }
	deploy/build-images
	$(BIN)/pytest -m slow $(PYTEST_ARGS) tests/deployment/test_running_images.py

.PHONY: rounds
rounds: install ## Five rounds in sequence, the report of the last, and the curves over all
	$(BIN)/fashiondpo round --run runs/rounds --rounds 5
	$(BIN)/fashiondpo curve --run runs/rounds
	@echo "Open runs/rounds/report.html; the curves are runs/rounds/rounds-*.png, the figures report.json and rounds.json"

.PHONY: assets
assets: install $(FASHION_MNIST) ## Train the mini models again, from Fashion-MNIST to assets/mini
	$(BIN)/fashiondpo pretrain --preset mini --fashion-mnist $(FASHION_MNIST) --out assets/mini

/usr/share/datasets/fashion-mnist:
	@command -v apt-get >/dev/null || { echo "no apt here: fetch Fashion-MNIST yourself and name its folder: make assets FASHION_MNIST=..."; exit 1; }
	$(APT_GET) update
	$(APT_GET) install -y dataset-fashion-mnist

.PHONY: bench
bench: install ## Run the benchmarks, each against a named peer
	@set -e; for script in benchmarks/*.py; do \
	  test -e "$$script" || { echo "benchmarks/ is empty"; break; }; \
	  echo "== $$script"; $(BIN)/python "$$script"; \
	done

.PHONY: clean
clean: ## Remove caches and builds; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
