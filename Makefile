# Every target sets up what it needs in .venv (Python >= 3.11, make and git are all that a machine must have).
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
BIN    := .venv/bin
QUIETLY := -qq --disable-pip-version-check --no-input
PIP    := $(BIN)/python -m pip $(QUIETLY)
ARGS   ?=

# Compiled modules are kept: without them worker processes start three times slower.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo servers test test-3.14 check lint types layers changelog docs bench soak dev format clean

help: ## this list
	@sed -n 's/^\([a-z0-9.-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: .venv/demo.stamp ## the main job on real input: it waits, it computes, it cleans up
	@$(BIN)/theus demo $(ARGS)

test: .venv/test.stamp servers ## all tests but the soak (ARGS="-k pipe -x" goes to pytest)
	$(BIN)/python -m pytest -q $(ARGS)

test-3.14: .venv-3.14/test.stamp servers ## the same tests on Python 3.14 (made in .tools if the machine has none)
	.venv-3.14/bin/python -m pytest -q $(ARGS)

check: lint types layers changelog docs ## style, strict types by two checkers, layers, changelog, docs (make -k check: all faults)

lint: .venv/check.stamp ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/check.stamp ## mypy on the sources, mypy and basedpyright on the calls in tests/typing
	$(BIN)/mypy
	$(BIN)/basedpyright

layers: .venv/check.stamp ## who may import whom
	$(BIN)/python -m pytest -q tests/test_layers.py

changelog: .venv/check.stamp ## the fragments in changelog.d make a changelog
	@$(BIN)/towncrier build --draft --version next > .venv/changelog.md 2>&1 || { cat .venv/changelog.md; exit 1; }
	@echo "changelog.d: $$(grep -c '^- ' .venv/changelog.md) entries"

docs: .venv/check.stamp ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: site/index.html"

bench: .venv/bench.stamp servers ## the price of things, beside asyncio's
	@$(BIN)/python -m compileall -q src benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

soak: .venv/test.stamp servers ## the long runs, some hours: random histories, kills, millions of steps, 20 times the property tests; see docs/soak.md
	THEUS_SOAK=20 $(BIN)/python -m pytest -m soak -s --timeout 14400 -o faulthandler_timeout=14000 $(ARGS)
	THEUS_SOAK=20 $(BIN)/python -m pytest -q tests/state --timeout 14400 -o faulthandler_timeout=14000 $(ARGS) || test $$? = 5

dev: .venv/dev.stamp ## everything at once, for an editor

format: .venv/check.stamp ## put the sources in order
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

clean: ## remove what make made, except .tools
	rm -rf .venv .venv-3.14 site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -not -path './.tools/*' -prune -exec rm -rf {} +

# Redis and PostgreSQL for the tests, into .tools if the machine has none. In CI a missing one is a failure.
servers: .venv/pip.stamp
	@$(BIN)/python scripts/servers.py > /dev/null || test -z "$$CI"

# --- set-up -----------------------------------------------------------------------------------------------------

.venv/pip.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Theus needs Python 3.11 or newer; $(PYTHON) is %d.%d. Say which to use: make PYTHON=python3.12 $(MAKECMDGOALS)" % v[:2])'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PIP) install --upgrade pip
	@touch $@

# One stamp for each extra of pyproject.toml: repeated calls cost nothing, a changed pyproject.toml installs anew.
.venv/%.stamp: EXTRA = $*
.venv/%.stamp: pyproject.toml .venv/pip.stamp
	@echo "Setting up .venv for '$*' (the first time up to a minute) ..."
	@$(PIP) install --editable '.[$(EXTRA)]'
	@touch $@

.venv-3.14/test.stamp: pyproject.toml scripts/python314.py .venv/pip.stamp
	@echo "Setting up .venv-3.14 for 'test' (the first time up to a minute) ..."
	@python=$$($(BIN)/python scripts/python314.py) && { .venv-3.14/bin/python -m pip --version >/dev/null 2>&1 || $$python -m venv --clear .venv-3.14; }
	@.venv-3.14/bin/python -m pip $(QUIETLY) install --editable '.[test]'
	@touch $@
