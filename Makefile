# Everything runs in .venv, which is made where it is missing. PYTHON=python3.12 make ... chooses another interpreter.
PYTHON ?= python3
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" MPLBACKEND=Agg

.DEFAULT_GOAL := help
.PHONY: help demo test test-all nightly audit experiment locality bench clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/requirements ## install, get the data, train, cut and plot two networks; ends with a table (minutes)
	$(RUN) dvc repro
	@$(RUN) python experiments/table.py runs/regular runs/spatial
	@echo "open runs/spatial/figures/report.html beside runs/regular/figures/report.html in a browser"

test: $(VENV)/requirements-dev ## install, then tests, ruff and mypy; no network, no GPU
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile -m "not slow and not gpu"

test-all: $(VENV)/requirements-dev ## all tests, also those on real data and, where there is one, on a GPU
	$(RUN) pytest

nightly: $(VENV)/requirements-dev ## thousands of interruptions, wrong command lines and spoiled files (docs/reliability.md)
	$(RUN) OMP_NUM_THREADS=1 pytest --nightly tests/test_reliability_*.py

audit: $(VENV)/requirements-dev $(VENV)/bin/pip-audit ## ask for known holes in the packages; says where its database cannot be reached
	$(RUN) python .ci/audit.py

experiment: $(VENV)/requirements ## the table of experiments/two_task (see its README)
	$(RUN) dvc repro experiments/two_task/dvc.yaml

locality: $(VENV)/requirements ## the tables of experiments/locality_mnist (see its README)
	$(RUN) dvc repro experiments/locality_mnist/dvc.yaml

bench: $(VENV)/requirements ## measure the speed, as ratios (experiments/benchmarks)
	$(RUN) python experiments/benchmarks/step.py --compile --naive --memory 4096
	$(RUN) python experiments/benchmarks/epoch.py
	$(RUN) python experiments/benchmarks/seeds.py
	$(RUN) python experiments/benchmarks/locality.py

clean: ## remove .venv
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/bin/pip-audit: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit

# the stamp files remember that, and of what, the installation succeeded
$(VENV)/requirements $(VENV)/requirements-dev: $(VENV)/%: %.txt requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
