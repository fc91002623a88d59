# `make demo` and `make test` are all a fresh clone needs: both set up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# The tests run in as many processes as there are cores; a pool of threads in each would only get in the way.
PARALLEL := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n logical --maxprocesses 8

.PHONY: help setup demo test quick lint docs wheel bench clean

help:
	@echo "make demo    three assets of what is in examples/, in out/"
	@echo "make test    all tests"
	@echo "make quick   the tests that take about a second or less each"
	@echo "make lint    style, types, architecture"
	@echo "make docs    the documentation, in site/"
	@echo "make wheel   build the wheel, install it elsewhere, run it"
	@echo "make bench   time the kernels"

setup: $(VENV)/.developer

# What it takes to run V3D, and nothing else.
$(VENV)/.user: pyproject.toml constraints.txt
	@echo "== Setting up in $(VENV): PyTorch and what else V3D needs (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.user
	@echo "== Setting up the tools of developers (a minute, once)"
	$(RUN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.user
	@echo "== 1 of 3: an asset of four photos of a pirate (the first run compiles the kernels: a minute more)"
	$(RUN)/v3d generate examples/pirate.png --left examples/pirate_left.png --back examples/pirate_back.png \
	    --right examples/pirate_right.png -o out
	@echo "== 2 of 3: an asset of one photo of a duck"
	$(RUN)/v3d generate examples/bob.png -o out --quality draft
	@echo "== 3 of 3: an asset of 18 views of a toy plane"
	$(RUN)/v3d reconstruct examples/plane -o out
	@echo "== Done. Look at preview.png first; mesh.glb opens in Blender and in viewers of glTF:"
	@for name in pirate bob plane; do echo "  out/$$name/preview.png  out/$$name/turntable.mp4  out/$$name/mesh.glb"; done

test: setup
	@echo "== All tests, in parallel; each file is named when its first test has ended"
	$(PARALLEL)

quick: setup
	@echo "== The quick tests, in parallel; tests/slow.txt lists those left out"
	$(PARALLEL) -m "not slow"

lint: setup
	@echo "== Style"
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	@echo "== Types"
	$(RUN)/mypy
	@echo "== Architecture and size"
	$(RUN)/python scripts/house.py

docs: setup
	@echo "== Documentation"
	$(RUN)/mkdocs build --strict

wheel: setup
	scripts/check_wheel.sh $(RUN)/python

bench: setup
	$(RUN)/python benchmarks/rasterizer.py
	$(RUN)/python benchmarks/dit.py
	$(RUN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) out site
