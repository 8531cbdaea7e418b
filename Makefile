# Needs Python >= 3.11 and make, nothing else. `make demo` and `make test` are the two commands.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Byte code is kept: without it every flow run would compile Prefect anew.
unexport PYTHONDONTWRITEBYTECODE
UV := .uv/bin/uv
RUN := $(UV) run --frozen --no-sync

.PHONY: help install demo test lint dictionary truth trouble drift consumers five-ways proofs bench clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; give another one with make PYTHON=...")'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.7,<1'

.venv/.synced: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --python $(PYTHON)
	@touch $@

install: .venv/.synced ## Install everything into .venv

demo: install ## The main job: a real day of calls through the whole platform (ARGS="--exit --report r.json")
	$(RUN) ccaas demo $(ARGS)

test: install ## Unit and integration tests on real Kafka and registry
	$(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

lint: install ## Style, types, versions of the schema
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) ccaas schema check --offline

dictionary: install ## Write docs/data-dictionary.md from the tables' definitions
	$(RUN) ccaas dictionary > docs/data-dictionary.md

truth: install ## Slow proof: a whole month of calls (TRACE=file) equals an independent computation, in every cell
	$(RUN) pytest -m slow tests/truth --ignore tests/truth/test_five_ways.py $(ARGS)

trouble: install ## Slow proof: a day of floods, lost webhooks, rotated keys and refused streams ends in the same tables
	$(RUN) pytest -m slow tests/truth/test_disturbed.py $(ARGS)

drift: install ## Slow proof: a month with a new field, an hour with a renamed one
	$(RUN) pytest -m slow tests/truth/test_drift.py $(ARGS)

consumers: install ## Slow proof: an hour, and a day with every consumer killed 50 times, end in the same CRM, tables and live figures
	$(RUN) pytest -m slow tests/truth/test_consumers.py $(ARGS)

five-ways: install ## Slow proof (about an hour): a month loaded in five ways, on both engines, makes identical, true tables
	$(RUN) pytest -m slow tests/truth/test_five_ways.py -s $(ARGS)

proofs: install ## All slow proofs: the month and the watchdogs
	$(RUN) pytest -m slow $(ARGS)

bench: install ## Benchmarks: ratios against named peers, several rounds
	$(UV) sync --frozen --quiet --group bench
	$(RUN) python -m bench $(ARGS)

clean: ## Remove what the local stack wrote
	rm -rf .ccaas
