# Every target works from a fresh clone: the first one creates .venv with the pinned dependencies.
PYTHON ?= python3
BIN := .venv/bin
# `make test JOBS=4` uses four processes; the default suits two cores.
JOBS ?= 2

.PHONY: demo test check bench docs setup clean
.DEFAULT_GOAL := demo

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	# For K-FAC, without its own dependency torchvision, which a CPU build of torch has no match for.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		curvlinops-for-pytorch einconv einops linear_operator opt_einsum
	@touch $@

demo: setup ## examine a real network trained on real data, and say where the report is
	$(BIN)/torchstone examine digits --plan quick --fresh

test: setup ## the whole suite, documentation code included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

check: setup ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_architecture.py

bench: setup ## time and passes of each instrument; ratios against peers
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: setup ## the documentation site, into site/
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv site dist .pytest_cache .ruff_cache torchstone-reports
