# make run      install into .venv and serve with config.example.yaml
# make test     the whole test suite; ARGS="tests/server -k stop" for a part of it
# make check    format, lint, types
# make docs     whether the documentation says what the code does
# make bench    the benchmark; ARGS are passed on
# make dist     wheels and source distributions, into dist/
# make clean    remove what these have made, except uploads
#
# PYTHON names the interpreter (3.11 or newer) that the virtual environment is made with.

VENV ?= .venv
JOBS ?= 4
ARGS ?=
RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip --disable-pip-version-check install --quiet
PLUGINS = $(wildcard plugins/*/pyproject.toml)
SERVICES = $(patsubst tests/services/%/requirements.txt,$(VENV)/services/%/installed,$(wildcard tests/services/*/requirements.txt))
unexport PYTHONDONTWRITEBYTECODE # every server that a test starts would compile the sources anew
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))

ifndef PYTHON
PYTHON = $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	"$$python" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo "$$python" && break; done)
endif

.PHONY: run test check docs bench dist clean

run: $(VENV)/installed
	$(VENV)/bin/tusd serve -c config.example.yaml

test: $(VENV)/installed-dev $(SERVICES)
	$(RUN) -m pytest -n $(JOBS) $(ARGS)

check: $(VENV)/installed-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

docs: $(VENV)/installed-dev
	$(RUN) -m pytest tests/docs $(ARGS)

bench: $(VENV)/installed-dev
	$(RUN) tests/bench/bench.py $(ARGS)

dist: $(VENV)/installed-dev
	rm -rf dist
	for project in . $(patsubst %/pyproject.toml,%,$(PLUGINS)); do $(RUN) -m build --no-isolation --outdir dist "$$project" || exit 1; done

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find core tests plugins -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems ship venv without ensurepip; then the interpreter's own pip installs one into the environment.
$(RUN):
	@if ! "$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "tusd needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is not that,, and found none). Name one: make run PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@echo "making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); "$(PYTHON)" -m venv --without-pip $(VENV) && \
		"$(PYTHON)" -m pip --disable-pip-version-check --python $(RUN) install --quiet pip; }

$(VENV)/installed: pyproject.toml | $(RUN)
	@echo "installing tusd into $(VENV)"
	@$(PIP) --editable .
	@touch $@

# The dev group is read from pyproject.toml because only pip 25.1 and newer know dependency groups.
$(VENV)/installed-dev: pyproject.toml $(PLUGINS) | $(RUN)
	@$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $@.txt
	@echo "installing tusd and what its tests need into $(VENV)"
	@$(PIP) --requirement $@.txt --editable . $(foreach plugin,$(PLUGINS),--editable $(patsubst %/pyproject.toml,%,$(plugin)))
	@touch $@ $(VENV)/installed

# Servers for tests, each in an environment of its own because it wants other versions than we do.
$(VENV)/services/%/installed: tests/services/%/requirements.txt | $(RUN)
	@echo "installing $* for the tests into $(@D)"
	@rm -rf $(@D)
	@$(RUN) -m venv --without-pip $(@D)
	@$(RUN) -m pip --disable-pip-version-check --python $(@D)/bin/python install --quiet --requirement $<
	@touch $@
