# Each target makes the environment that it needs, in .venv, from any Python >= 3.11.
#
#   make demo          the small model on RULER tasks, on eight simulated devices
#   make demo-language a real language model on a real text, and its answers by star and exactly
#   make test          lint, types and tests; what CI runs
#   make test-mosaic   the Hopper kernels' tests, in .venv-mosaic if .venv's JAX is too old for them
#   make lint          lint and types alone
#   make test-large    tests that need an hour or more than 8 GB
#
# A particular Python: make test PYTHON=/path/to/python

PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
MOSAIC := .venv-mosaic

# Everything here runs on CPU devices, whatever the shell or the machine would choose.
export JAX_PLATFORMS := cpu
unexport PYTHONHOME PYTHONPATH PYTHONWARNINGS PYTEST_ADDOPTS XLA_FLAGS
# Without bytecode in files, each command that a test starts takes two seconds more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
# What is installed is compiled when it is first imported: most of it never is.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help demo demo-language test test-mosaic mosaic-environment lint test-large clean

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

demo: $(VENV)/.demo
	$(RUN) -m star_jax.eval --config=configs/demo.py

demo-language: $(VENV)/.language
	$(RUN) -m tools.smollm2
	$(RUN) -m tools.demo_language

# Four processes for two cores, a file each: compiling is most of the work, and a file's tests
# share programs; those that start processes of their own wait for a third of their time.
# Lint keeps one core busy, and so does making the other environment. Tests are collected once
# for what they import to be bytecode: four processes would each make all of it.
test: $(VENV)/.test
	@$(MAKE) --no-print-directory mosaic-environment & other=$$!; \
	  $(MAKE) --no-print-directory lint; linted=$$?; wait $$other && exit $$linted
	@$(MAKE) --no-print-directory test-mosaic
	@[ -e tests/__pycache__ ] || $(RUN) -m pytest --collect-only -qq >/dev/null || true
	$(RUN) -m pytest -n 4 --dist loadfile

# The kernels need JAX >= 0.11, and that Python >= 3.12: where .venv has neither, the newest
# Python of the machine gets an environment of its own. Triton's are compiled there once more: on
# Hopper they serve keys in 8 bits, and JAX compiles them in another way than an older one.
mosaic-environment: $(VENV)/.test
	@$(RUN) -c '$(HAS_MOSAIC)' || $(MAKE) --no-print-directory $(MOSAIC)/.made

test-mosaic: mosaic-environment
	@if $(RUN) -c '$(HAS_MOSAIC)'; then echo "Mosaic's tests run in $(VENV), with the others"; \
	elif [ -e $(MOSAIC)/.made ]; then \
	  $(MOSAIC)/bin/python -m pytest -n 2 --dist loadfile tests/mosaic \
	    tests/test_aot_triton.py tests/test_aot_compressed.py; \
	fi

test-large: mosaic-environment
	$(RUN) -m pytest tests/large
	$(RUN) -m pytest -m long
	@if [ -e $(MOSAIC)/.made ]; then \
	  $(MOSAIC)/bin/python -m pytest tests/large/mosaic && \
	  $(MOSAIC)/bin/python -m pytest -m long tests/mosaic; \
	fi

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) $(MOSAIC) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

# The stamps: what is in the environment, and since when.

$(VENV)/.demo: pyproject.toml $(VENV)/.made
	@echo "installing star_jax into $(VENV)"
	@$(RUN) $(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.language: pyproject.toml $(VENV)/.made
	@echo "installing star_jax and what reads its language model into $(VENV)"
	@$(RUN) $(PIP_INSTALL) --editable '.[language]'
	@touch $@ $(VENV)/.demo

$(VENV)/.test: pyproject.toml $(VENV)/.made
	@echo "installing star_jax and what its tests need into $(VENV)"
	@$(RUN) $(PIP_INSTALL) --editable '.[test,dev]'
	@touch $@ $(VENV)/.demo $(VENV)/.language

# An environment that works is kept. A candidate counts only if it runs (a pyenv shim may not)
# and can make environments (Debian's python3 without python3-venv cannot).
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHONS := python3 python3.11 python3.12 python3.13 python3.14 python \
  $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/python)
CANDIDATES := $(or $(PYTHON),$(PYTHONS))

$(VENV)/.made:
	@if ! $(RUN) -c 'import pip; $(SUITABLE)' 2>/dev/null; then \
	  for python in $(CANDIDATES); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "no Python >= 3.11 with the venv module among: $(strip $(CANDIDATES))" >&2; \
	    echo "install one, or name it: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found"; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	@touch $@

HAS_MOSAIC := import jax, sys; sys.exit(jax.version.__version_info__[:2] < (0, 11))
# Prints a Python's version, if JAX of a version that we support can be had for it.
NEWER := import sys, venv, ensurepip; v = sys.version_info; \
  (3, 12) <= v < (3, 15) and print(v.minor, sys.executable)

$(MOSAIC)/.made: pyproject.toml
	@found="$$(for python in $(PYTHONS); do "$$python" -c '$(NEWER)' 2>/dev/null; done \
	  | sort -rn | head -n 1 | cut -d ' ' -f 2-)"; \
	if [ -z "$$found" ]; then \
	  echo "****************************************************************************" >&2; \
	  echo "NOT TESTED: the Hopper kernels. They need Python 3.12, 3.13 or 3.14, and there is" >&2; \
	  echo "none among: $(strip $(PYTHONS))" >&2; \
	  echo "****************************************************************************" >&2; \
	  exit 0; \
	fi; \
	echo "making $(MOSAIC) with $$found, for the Hopper kernels"; \
	"$$found" -m venv --clear $(MOSAIC) && $(MOSAIC)/bin/python -m pip install --quiet \
	  --disable-pip-version-check --editable '.[mosaic]' && touch $@
