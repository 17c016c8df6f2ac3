# Every target makes its own environment, .venv, the first time (and anew when pyproject.toml or constraints.txt change).
#
#   make demo        compare the families on two real data sets that are there after installation; writes demo/*.html
#   make test        the tests (minutes on two cores)
#   make test-all    also the slow ones, and those that need the data folder or a GPU
#   make lint        what continuous integration checks;   make format   mends what can be mended
#   make benchmarks  the speeds of benchmarks/README.md;   make clean    removes what was made

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

# One thread for each of two workers, as small tensors gain nothing from more; a file stays with one worker, so that what
# its tests share (the audit of a family) is made once.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: demo test test-all lint format benchmarks clean

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: $(READY)
	@$(TESTS)

test-all: $(READY)
	@$(TESTS) --all

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

benchmarks: $(READY)
	@for script in startup engine mixture_speed made_speed; do $(BIN)/python benchmarks/$$script.py || exit 1; echo; done

clean:
	@rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: it is the one large download, and the rest must not choose another version of it.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "plausible needs Python 3.11 or newer as python3, or: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "plausible needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`" >&2; exit 1; }
	@echo "making the environment .venv (some minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --quiet -c constraints.txt torch
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)
