# make serve [ARGS="--offline"]   set up and serve in the foreground
# make test  [ARGS="-k name"]     set up, then every check and every test, with coverage
# make floor                      set up apart, then some of the tests on the lowest versions that pyproject.toml allows
# make attack [ARGS="-k name"]    set up, then the attacks of tests/hostile, large: minutes, on the loopback alone
# make direct [ARGS="-k name"]    set up, then every shape, failure and way out of modules from real git servers: minutes
# make soak [MINUTES=20]          set up, then the tests that take many minutes; MINUTES of everything mixed among them
# make check                      set up, then the static checks alone
# make clean                      remove whatever make has made
#
# Needs Python 3.11 or newer with pip and venv; PYTHON=python3.12 chooses one.

PYTHON ?= python3
ARGS ?=
MINUTES ?= 20

VENV := .venv
FLOOR := .venv-floor
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

.PHONY: help serve test floor attack direct soak check clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# *//p' Makefile

serve: $(INSTALLED)
	@exec $(BIN)/goproxy-vm serve $(ARGS)

test: check
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 3 --dist worksteal $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=95

# What stands on aiohttp, and something for each of the other packages.
floor: $(FLOOR)/.installed
	$(FLOOR)/bin/python -m pytest --numprocesses 2 \
	    tests/integration/test_web.py tests/integration/test_listener.py tests/integration/test_front.py \
	    tests/integration/test_upstream_http.py tests/integration/test_api_server.py \
	    tests/integration/test_metrics.py tests/integration/test_completion.py \
	    tests/unit/test_note.py tests/unit/test_cache_answers.py tests/unit/test_cache_download.py

attack: $(INSTALLED_TEST)
	GOPROXY_VM_ATTACK=large $(BIN)/python -m pytest tests/hostile $(ARGS)

direct: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -m direct --numprocesses 2 $(ARGS)

soak: $(INSTALLED_TEST)
	GOPROXY_VM_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m soak $(ARGS)

check: $(INSTALLED_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(FLOOR) build dist *.egg-info .coverage .coverage.* \
	    .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python $(FLOOR)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (PYTHON=...)" \
	    if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D:/bin=)

# Installed in place, so that the sources are what runs; again whenever the dependencies may have changed.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_TEST): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(INSTALLED) $@

$(FLOOR)/.installed: pyproject.toml tests/floor.py | $(FLOOR)/bin/python
	$(FLOOR)/bin/python tests/floor.py > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(FLOOR)/constraints.txt \
	    --editable . hypothesis jsonschema pytest pytest-aiohttp pytest-timeout pytest-xdist pyyaml
	@touch $@
