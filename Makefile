# Each target works alone in a fresh clone on a machine with Python 3.11 to 3.14 and a package index.
#
#   make demo     bring up the example lab and ask it
#   make test     every test suite; `make test SUITES="lm rag"` runs some
#   make check    format, lint and types
#   make soak     what takes longer than a change should wait for
#   make clean    remove caches and build output; `make distclean` also removes the environments
#
# PYTHON=python3.12    the Python to make the environments with (default: the first that fits)
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                      where to take torch from. PyPI's torch for Linux brings 3 GB of CUDA libraries; this index
#                      has the same version for CPUs only (200 MB).
PYTHON ?=
TORCH_INDEX ?=
SUITES ?=

PIP := -m pip install -qq --disable-pip-version-check --no-compile --constraint constraints.txt
# On every core, where pip would take one. What is no Python of this version stays as it is, as with pip.
COMPILE := -m compileall -qq -j 0
CODE := placement actors jobs tierce.py

.PHONY: demo test check check-format check-lint check-types soak install clean distclean

demo: .venv/.installed
	@.venv/bin/tierce demo

test: .venv/.installed .venv-pure/.installed
	@.venv/bin/python .ci/suites.py $(SUITES)

check: check-format check-lint check-types

check-format: .venv/.installed
	.venv/bin/ruff format --check .

check-lint: .venv/.installed
	.venv/bin/ruff check .

check-types: .venv/.installed
	.venv/bin/mypy --strict $(CODE)

soak: .venv/.installed
	@.venv/bin/python .ci/suites.py --soak

install: .venv/.installed .venv-pure/.installed
	@:

# The build backend is installed first, at its pinned version, so that the build itself repeats as well.
.venv/.installed: pyproject.toml constraints.txt
	@.ci/venv .venv $(PYTHON)
	@echo "tierce: installing torch into .venv (1 of 2, first time only, takes minutes)"
	@.venv/bin/python $(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "tierce: installing everything else (2 of 2, first time only, takes minutes)"
	@.venv/bin/python $(PIP) hatchling
	@.venv/bin/python $(PIP) --no-build-isolation --editable '.[dev]'
	@.venv/bin/python $(COMPILE) .venv/lib || true
	@touch $@

# No Ray, no torch: what passes here needs neither.
.venv-pure/.installed: pyproject.toml constraints.txt
	@.ci/venv .venv-pure $(PYTHON)
	@echo "tierce: installing the bare test environment into .venv-pure (first time only)"
	@.venv-pure/bin/python $(PIP) pydantic PyYAML pytest pytest-asyncio pytest-timeout hypothesis
	@.venv-pure/bin/python $(COMPILE) .venv-pure/lib || true
	@touch $@

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(wildcard actors placement jobs tests examples notebooks) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-pure
