# `make demo` and `make test` are all a fresh clone needs: both set up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: setup demo test lint bench clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q --upgrade pip
	$(RUN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(RUN)/v3d generate examples/*.png examples/*.jpg -o out

test: setup
	$(RUN)/python -m pytest

lint: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

bench: setup
	$(RUN)/python benchmarks/rasterizer.py
	$(RUN)/python benchmarks/dit.py
	$(RUN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) out
