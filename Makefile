# Every target makes what it needs: in a fresh clone, `make test` first makes the virtual environment
# from requirements.lock.
#
#   make test PYTHON=python3.12       the Python that a new environment is made with
#   make test ARGS="-k beam -x"       more arguments for pytest, or for the demo
#   make test WORKERS=4               processes that test at once; each takes about 3 GB
#   make test VENV=/elsewhere/venv    another virtual environment

VENV ?= .venv
PYTHON ?=
ARGS ?=
WORKERS ?= 2

STAMP := $(VENV)/.complete
UNFINISHED := $(VENV)/.unfinished
RUN := $(VENV)/bin/python

# A value that is already in the environment wins over the one given here.
TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_CPP_MIN_LOG_LEVEL
# Not what ~/.keras/keras.json of the one who runs it happens to say.
KERAS_BACKEND ?= tensorflow
export KERAS_BACKEND
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## train a small Transformer, translate with it, export it
	$(RUN) -m training.demo $(ARGS)

test: $(STAMP)  ## run the tests, the slow ones left out
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# pytest exits with 5 when it collected no test. That is no failure as long as there is no slow test,
# and is one when ARGS asked for a test that does not exist.
test-slow: $(STAMP)  ## run the slow tests only
	$(RUN) -m pytest -m slow --timeout=1800 -n $(WORKERS) --dist loadfile $(ARGS) || { status=$$?; \
	  $(if $(strip $(ARGS)),,[ $$status -eq 5 ] && echo "make test-slow: there is no slow test; nothing was run." ||) \
	  exit $$status; }

lint: $(STAMP)  ## check style and formatting, change nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(STAMP)  ## repair what can be repaired of style and formatting
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
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp of an environment whose interpreter has gone since then says nothing.
ifneq ($(shell $(RUN) -c 'print(1)' 2>/dev/null),1)
.PHONY: $(STAMP)
endif

# `.unfinished` stands in the environment from before the first file is written until after the last.
# Where it is found, an installation was interrupted; what such an environment holds cannot be
# trusted (pip takes a half-written package for an installed one), so it is made anew.
$(STAMP): requirements.lock setup.cfg pyproject.toml
	@if [ -e $(UNFINISHED) ]; then \
	  echo "$(VENV) is left from an interrupted installation: it is made anew."; \
	  rm -rf $(VENV); \
	elif [ -e $(VENV)/pyvenv.cfg ] && ! $(RUN) -c '$(supported)' 2>/dev/null; then \
	  echo "$(VENV) holds no working Python 3.11, 3.12 or 3.13: it is made anew."; \
	  rm -rf $(VENV); \
	fi
	@[ -e $(VENV)/pyvenv.cfg ] || $(MAKE) --no-print-directory $(VENV)/pyvenv.cfg
	@touch $(UNFINISHED) && rm -f $(STAMP)
	$(RUN) -m pip install --requirement requirements.lock
	$(RUN) -m pip install --no-deps --no-build-isolation --editable .
	@rm $(UNFINISHED) && touch $(STAMP)

# A candidate is run, not looked for: a version manager's python3.12 may exist and fail.
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
	echo "Making $(VENV) with $$($$python --version): some minutes, about 3 GB."; \
	mkdir -p $(VENV) && touch $(UNFINISHED) && $$python -m venv $(VENV)
