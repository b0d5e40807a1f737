# Each target makes its own environment in .venv; nothing else has to be installed first but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test results gui samples system clean

demo: .venv/core.stamp          ## explain the sample brain with both sample models and many methods
	$(BIN)/napari-xai demo --out demo_output

gui: .venv/gui.stamp            ## napari with the sample brain and the Explain widget
	$(BIN)/napari-xai gui

# One thread: the networks in tests are tiny, and waiting threads would keep the second core from the viewer.
test: export OMP_NUM_THREADS = 1
test: .venv/dev.stamp system    ## style, types, import contracts, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v xvfb-run >/dev/null; then \
	  echo "pytest under Xvfb"; xvfb-run -a -s "-screen 0 1600x1000x24" $(BIN)/python -m pytest; \
	else \
	  $(BIN)/python -m pytest; \
	fi

results: export OMP_NUM_THREADS = 1
results: .venv/dev.stamp        ## the tables of docs/results.md, in full
	$(BIN)/python docs/make_methods.py
	$(BIN)/python benchmarks/cost.py --write docs/results.md
	$(BIN)/python benchmarks/localisation.py --write docs/results.md
	$(BIN)/python benchmarks/conservation.py --write docs/results.md
	$(BIN)/python benchmarks/randomisation.py --write docs/results.md

samples: .venv/dev.stamp        ## make the sample volumes and train the sample models anew
	$(PIP) --editable ".[samples]"
	$(BIN)/python sample_volumes/make_volumes.py
	$(BIN)/python sample_volumes/train.py

# What the GUI tests need on Debian and Ubuntu: a virtual display, software OpenGL and Qt's XCB libraries.
SYSTEM := xvfb xauth libgl1 libegl1 libopengl0 libgl1-mesa-dri libglx-mesa0 libxkbcommon-x11-0 libdbus-1-3 \
  libfontconfig1 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 \
  libxcb-render-util0 libxcb-shape0 libxcb-xinerama0

system:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! dpkg -s $(SYSTEM) >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM); \
	fi

.venv/made.stamp:
	$(PYTHON) -m venv .venv
	touch $@

.venv/core.stamp: .venv/made.stamp pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/gui.stamp: .venv/core.stamp
	$(PIP) --editable ".[gui]"
	touch $@

.venv/dev.stamp: .venv/core.stamp
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv demo_output
