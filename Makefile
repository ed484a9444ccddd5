# `make demo` and `make test` create the virtual environment first. PYTHON is the interpreter to use (3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format clean

# One install for everything: torch and torchvision must come from the same source to work together.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -e '.[test]'
	-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib # on all cores; pip uses one
	touch $@

demo: $(VENV)/.installed
	$(BIN)/mlclip demo --overwrite

test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) mlclip-demo .pytest_cache .ruff_cache
