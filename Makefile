# Every target makes what it needs: in a fresh clone, `make test` first creates the virtual
# environment from requirements.lock.
#
#   make test PYTHON=python3.12       the Python for a new environment
#   make test ARGS="-k beam -x"       more arguments for pytest, or for the demo
#   make test WORKERS=4               parallel test processes; each takes about 3 GB
#   make test VENV=/elsewhere/venv    another virtual environment

VENV ?= .venv
PYTHON ?=
ARGS ?=
WORKERS ?= 2

STAMP := $(VENV)/.complete
UNFINISHED := $(VENV)/.unfinished
RUN := $(VENV)/bin/python

# The environment variable wins over this value.
TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_CPP_MIN_LOG_LEVEL
# Overrides the user's ~/.keras/keras.json.
KERAS_BACKEND ?= tensorflow
export KERAS_BACKEND
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Silences an advertisement.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint docs docs-serve format lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## train a small Transformer, translate with it, export it
	$(RUN) -m training.demo $(ARGS)

test: $(STAMP)  ## run the tests, except the slow ones
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# pytest exits with 5 if it collected no test. That is fine if there is no slow test, and a failure
# if ARGS selected a test that does not exist.
test-slow: $(STAMP)  ## run the slow tests only
	$(RUN) -m pytest -m slow --timeout=1800 -n $(WORKERS) --dist loadfile $(ARGS) || { status=$$?; \
	  $(if $(strip $(ARGS)),,[ $$status -eq 5 ] && echo "make test-slow: there is no slow test, so nothing was run." ||) \
	  exit $$status; }

lint: $(STAMP)  ## check style, formatting and types without changing anything
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(STAMP)  ## build the documents' site in build/site; any warning is an error
	$(RUN) -m mkdocs build --quiet --strict

docs-serve: $(STAMP)  ## show the site at http://127.0.0.1:8000/ and follow changes
	$(RUN) -m mkdocs serve

format: $(STAMP)  ## fix style and formatting as far as possible
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock:  ## renew requirements.lock from setup.cfg and the newest releases
	rm -rf build/lock-venv
	$(MAKE) build/lock-venv/pyvenv.cfg VENV=build/lock-venv
	build/lock-venv/bin/python -m pip install --upgrade --editable '.[dev]' setuptools
	{ sed '/^[^#]/d' requirements.lock; \
	  build/lock-venv/bin/python -m pip freeze --all --exclude pip --exclude-editable; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build/lock-venv

clean:  ## remove the virtual environment, caches and build output; runs and exports stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Without a working interpreter, the stamp is out of date.
ifneq ($(shell $(RUN) -c 'print(1)' 2>/dev/null),1)
.PHONY: $(STAMP)
endif

# `.unfinished` exists in the environment while it is being installed. If it is found here, an
# installation was interrupted and cannot be trusted (pip takes a half-written package for an
# installed one), so the environment is created again.
$(STAMP): requirements.lock setup.cfg pyproject.toml
	@if [ -e $(UNFINISHED) ]; then \
	  echo "$(VENV) is left over from an interrupted installation: creating it again."; \
	  rm -rf $(VENV); \
	elif [ -e $(VENV)/pyvenv.cfg ] && ! $(RUN) -c '$(supported)' 2>/dev/null; then \
	  echo "$(VENV) has no working Python 3.11, 3.12 or 3.13: creating it again."; \
	  rm -rf $(VENV); \
	fi
	@[ -e $(VENV)/pyvenv.cfg ] || $(MAKE) --no-print-directory $(VENV)/pyvenv.cfg
	@touch $(UNFINISHED) && rm -f $(STAMP)
	$(RUN) -m pip install --requirement requirements.lock
	$(RUN) -m pip install --no-deps --no-build-isolation --editable .
	@rm $(UNFINISHED) && touch $(STAMP)

# Candidates are run, not just looked up: a version manager's python3.12 may exist and fail.
supported := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
candidates := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

$(VENV)/pyvenv.cfg:
	@for candidate in $(candidates); do \
	  if $$candidate -c '$(supported)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$${python:-}" ]; then \
	  echo "No working Python 3.11, 3.12 or 3.13 with the venv module. Tried: $(candidates). Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	if [ -d $(VENV) ] && [ ! -e $(UNFINISHED) ] && [ -n "$$(ls -A $(VENV))" ]; then \
	  echo "$(VENV) must be a virtual environment or absent. Received: a folder without pyvenv.cfg. Remove it, or name another: make VENV=/path/to/venv" >&2; \
	  exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$python --version): a few minutes, about 3 GB."; \
	mkdir -p $(VENV) && touch $(UNFINISHED) && $$python -m venv $(VENV)
