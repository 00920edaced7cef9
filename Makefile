# make reproduce   train noto-32, score it, rebuild tables and figures
# make test        lint, types, tests, notebooks
# make coverage    what the tests reach, line by line in htmlcov/
# make bench       every step next to its matmul time, and others' code; BASE=COMMIT measures that one too,
#                  CASES="step-64 peers-256" these alone
# make pages       docs/ and the performance figure from the numbers that are kept in results/
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := agg

# The first Python that is new enough, unless you name one: make test PYTHON=/path/to/python3.12
recent = $(shell $(1) -c 'import sys; print("yes" * (sys.version_info >= (3, 11)))' 2>/dev/null)
version = $(shell $(1) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
pythons := python3 python3.13 python3.12 python3.11
PYTHON ?= $(firstword $(foreach python,$(pythons),$(if $(call recent,$(python)),$(python))) python3)
found = $(or $(wildcard $(BIN)/python),$(PYTHON))
refuse = $(error Python 3.11 or newer is needed, and $(found) is $(or $(call version,$(found)),not there): \
name a newer one with PYTHON=/path/to/python3.12$(if $(wildcard $(BIN)/python), and remove $(VENV)))

.PHONY: install reproduce natten results test test-slow coverage bench pages notebooks clean

install: $(VENV)/installed

# Torch first: what it brings decides what the rest may use.
$(VENV)/installed: pyproject.toml constraints.txt
	$(if $(call recent,$(found)),,$(refuse))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[offline-eval,fid,fused,pipeline,test]'
	command -v nvcc >/dev/null || $(MAKE) natten || echo "NATTEN did not build: its attention backend is left out"
	touch $@

# Its build needs the torch that is there. Without a CUDA compiler it takes seconds, and `install` does it; with
# one it builds kernels for up to an hour: run `make natten` yourself.
natten:
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation natten

reproduce: install
	$(BIN)/snakemake --cores all reproduce

# The results tables and figures alone, from the records in results/runs.
results: install
	$(BIN)/python -m stylenat tables
	$(BIN)/python -m stylenat figures

# Notebooks write into a copy of results/, so that testing leaves the clone as it was.
test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest
	workspace=$$(mktemp -d) && cp -R results README.md $$workspace && \
	STYLENAT_WORKSPACE=$$workspace $(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks; \
	status=$$?; rm -rf $$workspace; exit $$status

test-slow: install
	$(BIN)/pytest -m slow

coverage: install
	$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-report=html

bench: install
	$(BIN)/python scripts/bench.py $(CASES) $(if $(BASE),--base $(BASE))

# The blocks of docs/*.md from results/*.json; measures nothing.
pages: install
	$(BIN)/python scripts/bench_page.py
	$(BIN)/python scripts/score_page.py
	$(BIN)/python scripts/data_page.py
	$(BIN)/python scripts/loader_page.py

# Execute every notebook in place, as committed.
notebooks: install
	$(BIN)/python scripts/execute_notebook.py notebooks/*.ipynb

clean:
	rm -rf $(VENV) runs htmlcov .coverage
