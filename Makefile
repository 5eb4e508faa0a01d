# Everything that `make` offers; `make help` lists it.  A second run costs nothing:
# stamps in .venv remember what is installed.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# The first Python that is new enough; say PYTHON=… to choose another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	done)
WORKERS ?= 3
SITE ?= aisc-phase1
BIN := .venv/bin
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev
TOOLS_STAMP := .venv/.looked-for-tools
SERVICES = $(PYTHON) deploy/services/services.py
# Runs what follows it beside the real services, which are fetched or built where that can
# be done (once; what cannot is named), and stops them unless they ran before.
WITH_SERVICES = before=$$($(SERVICES) status | grep -c ' answers at '); \
	$(SERVICES) start --install --kafka --influx --postgres >/dev/null || true; \
	run() { "$$@"; status=$$?; [ "$$before" != 0 ] || $(SERVICES) stop; return $$status; }; run

.PHONY: help run test lint quick stack chaos browser services services-stop bench docs lock clean python

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: $(RUN_STAMP) ## Opens a live simulated centre in the browser (SITE=, ARGS=)
	@$(BIN)/petawatch up --site $(SITE) $(ARGS)

test: lint $(TOOLS_STAMP) ## Checks everything: lint, quick, long, stack and browser tests
	@$(WITH_SERVICES) $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(DEV_STAMP) ## Style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

quick: $(DEV_STAMP) ## Tests that need nothing but Python, without the longest
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --hypothesis-profile quick \
		-m "not stack and not browser and not gpu and not long" $(ARGS)

stack: $(TOOLS_STAMP) ## Tests on a real Kafka and a real InfluxDB
	@$(WITH_SERVICES) $(BIN)/pytest -m stack $(ARGS)

chaos: $(TOOLS_STAMP) ## Kills everything for a simulated day and compares the ledger (ARGS=)
	@$(WITH_SERVICES) $(BIN)/python tests/chaos/chaos.py $(ARGS)
	@$(WITH_SERVICES) $(BIN)/pytest tests/chaos/test_chaos_agents.py

browser: $(TOOLS_STAMP) ## Tests in a real Chromium
	$(BIN)/pytest -m browser $(ARGS)

services: python ## Starts a real Kafka and InfluxDB, and prints their addresses
	@$(SERVICES) start --install $(ARGS)

services-stop: python ## Ends them
	@$(SERVICES) stop

bench: $(DEV_STAMP) ## Measures all that benchmarks/ measures
	@for name in wire agent pipeline live up; do $(BIN)/python -m benchmarks.$$name --json || exit 1; done

lock: $(DEV_STAMP) ## Renews the lock files from pyproject.toml
	@$(BIN)/python deploy/lock.py

docs: $(DEV_STAMP) ## Renews the pages of docs/ that are made from the code
	@$(BIN)/python deploy/make_docs.py

clean: ## Removes the environment and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

python:
	@test -n "$(PYTHON)" || { echo "petawatch needs Python 3.11 or later; none was found." \
		"Install it, or write PYTHON=/path/to/python behind make."; exit 3; }

$(RUN_STAMP): requirements.lock requirements-build.lock pyproject.toml | python
	@$(PYTHON) deploy/setup.py environment run
	@touch $@

$(DEV_STAMP): requirements-dev.lock requirements-build.lock pyproject.toml | python
	@$(PYTHON) deploy/setup.py environment dev
	@touch $(RUN_STAMP) $@

$(TOOLS_STAMP): $(DEV_STAMP)
	@$(PYTHON) deploy/setup.py tools --install
	@touch $@
