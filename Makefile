# make demo | test | test-all | check | bench | fuzz | clean
#
#   make demo VIDEOS="a.mp4 'my holiday.mkv'"     your own files instead of the sample clips
#   make test PYTEST="-x tests/store"             part of the tests
#   make PYTHON=python3.12 VENV=/tmp/venv test    another interpreter, another place

PYTHON ?= python3
VENV ?= .venv
VIDEOS ?=
PYTEST ?=

BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Markers that `make test` leaves out; those for a GPU only where there is one.
MARKED = slow or ray or browser or compile$(shell $(BIN)/python -c \
  "import torch; print(' or gpu' * torch.cuda.is_available())" 2>/dev/null)

.PHONY: help demo test test-marked test-all check bench fuzz clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(STAMP)
	$(BIN)/python scripts/demo.py $(VIDEOS)

# As many tests at once as there are cores, so that each has one thread.
RUN = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: $(STAMP)
	$(RUN) $(PYTEST)

# pytest ends with 5 where no test bears the marker, which is fine here.
test-marked: $(STAMP)
	$(RUN) -m "$(MARKED)" $(PYTEST) || [ $$? -eq 5 ]

test-all: test test-marked

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	for script in scripts/bench_*.py; do $(BIN)/python $$script || exit 1; done

# What reads a store, on bytes that try to break it; TARGETS and SECONDS (of each) may be given.
TARGETS ?= index shard journals manifest record planes pin meta
SECONDS ?= 60
fuzz: $(STAMP)
	for target in $(TARGETS); do \
	  $(BIN)/python tests/fuzz/fuzz_store.py $$target -max_total_time=$(SECONDS) || exit 1; \
	done

# The stamp is younger than what it was installed from, so a second run starts at once.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "vidcomp needs Python 3.11 or newer: pass PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV); this takes some minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,report]'
	@touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info
	rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
