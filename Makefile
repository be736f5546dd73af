# `make demo` and `make test` need nothing but git, make and Python 3.10 or newer: they make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-gpu lint card atlas bench clean

demo: $(VENV)/.train
	$(BIN)/python recipes/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m slow

# Each of its processes takes a GiB of the GPU's memory.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -n 4 $(shell find tests -name 'test_*_on_gpu.py')

lint: $(VENV)/.dev
	$(BIN)/ruff check .

card: $(VENV)/.dev
	$(BIN)/python -m zoo.tools.index MODEL_CARD.md.new > zoo/tools/models.json.new
	mv MODEL_CARD.md.new MODEL_CARD.md && mv zoo/tools/models.json.new zoo/tools/models.json
	$(BIN)/python -m zoo.tools.overview < README.md > README.md.new && mv README.md.new README.md
	$(BIN)/python benchmarks/layout.py CONTRIBUTING.md > CONTRIBUTING.md.new && mv CONTRIBUTING.md.new CONTRIBUTING.md
	$(BIN)/python -m zoo.tools.catalogue > docs/blocks.md.new && mv docs/blocks.md.new docs/blocks.md
	$(BIN)/python -m zoo.training.recipe.reference > docs/recipe.md.new && mv docs/recipe.md.new docs/recipe.md
	$(BIN)/python recipes/overview.py > recipes/README.md.new && mv recipes/README.md.new recipes/README.md
	$(BIN)/python -m zoo.cli.support.manual > docs/cli.md.new && mv docs/cli.md.new docs/cli.md

# The site, and the README's pictures out of it.
PICTURES := pictures/pareto.svg families/caformer_s18.svg
atlas: $(VENV)/.dev
	$(BIN)/zoo atlas --out atlas
	mkdir -p docs/pictures && cp $(addprefix atlas/,$(PICTURES)) docs/pictures/

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/vs_timm.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "zoo needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp a set of dependencies: installed once, and again when setup.py changes.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: setup.py | $(BIN)/python
	@echo "Installing zoo[$*] into $(VENV) (PyTorch is large: a few minutes the first time) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
