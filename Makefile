# Each target makes its own environment in .venv; nothing else has to be installed first but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test results pictures gui samples system clean

demo: .venv/core.stamp          ## explain the sample brain with both sample models and many methods
	$(BIN)/napari-xai demo --out demo_output

gui: .venv/gui.stamp            ## napari with the sample brain and the Explain widget
	$(BIN)/napari-xai gui

# One thread for each of two workers: the networks in tests are tiny. The viewer's tests have the machine to themselves.
SCREEN = $(shell command -v xvfb-run >/dev/null && echo 'xvfb-run -a -s "-screen 0 1600x1000x24"')
test: export OMP_NUM_THREADS = 1
test: .venv/dev.stamp system    ## style, types, import contracts, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not gui"
	$(SCREEN) $(BIN)/python -m pytest -m gui --ignore methods3d --ignore io --ignore tests/methods3d

results: export OMP_NUM_THREADS = 1
results: .venv/dev.stamp        ## the tables of docs/results.md, in full
	$(BIN)/python docs/make_methods.py
	$(BIN)/python benchmarks/cost.py --write docs/results.md
	$(BIN)/python benchmarks/localisation.py --write docs/results.md
	$(BIN)/python benchmarks/conservation.py --write docs/results.md
	$(BIN)/python benchmarks/randomisation.py --write docs/results.md

pictures: export OMP_NUM_THREADS = 1
pictures: .venv/dev.stamp system ## a user's walk, its pictures in docs/images
	NAPARI_XAI_SCREENSHOTS=docs/images $(SCREEN) $(BIN)/python -m pytest -m gui tests/napari_xai/test_gui_walk.py

samples: .venv/dev.stamp        ## make the sample volumes and train the sample models anew
	$(PIP) --editable ".[samples]"
	$(BIN)/python sample_volumes/make_volumes.py
	$(BIN)/python sample_volumes/train.py

# What tests need on Debian and Ubuntu: a virtual display, software OpenGL, Qt's XCB libraries; a judge of DICOM files.
SYSTEM := xvfb xauth libgl1 libegl1 libopengl0 libgl1-mesa-dri libglx-mesa0 libxkbcommon-x11-0 libdbus-1-3 \
  libfontconfig1 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 \
  libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 dicom3tools

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
