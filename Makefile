# The commands a person types. `make help` lists them.
#
#   make train MODEL=simclr DATA=cifar10 SEED=1 EPOCHS=200 ARGS="model.temperature=0.2 data.batch_size=512"
#
# MODEL, DATA, ENCODER, VIEWS, TRAINER, LOGGER: names of files in configs/<group>/. SEED, EPOCHS, DEVICES: numbers.
# TRAINER=auto|cpu|gpu|ddp|fsdp|ddp_cpu: where it runs; ddp is all GPUs, or DEVICES of them (docs/clusters.md).
# SWEEP: a file of configs/sweep/; JOBS=n: trainings side by side; STORAGE: a database server; ENGINE=wandb: W&B's sweeps.
# DEBUG=1: a few batches of everything. PROFILE=1: writes a profile. RESUME=<run directory>: goes on with that run.
# RUN: a finished run. LABELS=0.1: the share of the train labels; LAYER=n: layers of RUN's projector that fine-tuning keeps;
# SCRATCH=1: from random weights; INIT=<run>: what the student starts from (docs/labels.md).
# RUNS: globs with blanks between them, or one path that is there, blanks and all.
# ARGS: any Hydra overrides, as words of a shell. All other values reach the program as they are, $, quotes and blanks too.
# TORCH=cpu|auto|cu...: another build of torch than the package index's (make setup).

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null)
INSTALLED := $(VENV)/.installed-$(or $(TORCH),default)

# What each command takes. A variable that is given to make and not among them is a mistake.
CHOICES := MODEL DATA ENCODER VIEWS TRAINER LOGGER SEED EPOCHS DEVICES RESUME DEBUG PROFILE
takes_train := $(CHOICES)
takes_sweep := $(CHOICES) SWEEP JOBS STORAGE ENGINE RETRY
MORE := ENCODER VIEWS TRAINER LOGGER SEED EPOCHS DEVICES DEBUG PROFILE
takes_finetune := RUN LABELS LAYER SCRATCH $(MORE)
takes_distill := RUN INIT LAYER $(MORE)
takes_compare := RUNS
takes_evaluate := RUN DATA LABELS SEED
takes_export := RUN FORMAT
ANY := ARGS VENV PYTHON TORCH

define NEWLINE


endef
quote = '$(subst $(NEWLINE),'$$'\n'',$(subst ','\'',$(1)))'
from = $(foreach name,$(2),$(if $(filter $(1),$(firstword $(origin $(name)))),$(name)))

GOALS := $(or $(MAKECMDGOALS),help)
TAKEN := $(sort $(foreach goal,$(GOALS),$(takes_$(goal))) $(ANY))
UNKNOWN := $(firstword $(filter-out $(TAKEN) SHELL,$(call from,command,$(.VARIABLES))))
ifneq ($(UNKNOWN),)
NEAREST := $(shell $(PYTHON) -c 'import difflib, sys; name, *known = sys.argv[1:]; \
	print(*difflib.get_close_matches(name.upper(), known, 1))' $(call quote,$(UNKNOWN)) $(TAKEN))
$(error make $(GOALS) takes no $(UNKNOWN)$(if $(NEAREST),; did you mean $(NEAREST)?,.) It takes: $(TAKEN))
endif
# Values are text: make expands no $ in them, neither here nor when it exports them to what it runs.
$(foreach name,$(call from,command environment,$(takes_sweep) $(takes_compare) $(takes_evaluate) $(takes_export) $(takes_finetune) \
	$(takes_distill)),\
	$(eval override $(name) := $$(value $(name))))

DEBUGGING := trainer.max_epochs=2 trainer.limit_train_batches=4 trainer.limit_val_batches=2 \
	trainer.log_every_n_steps=1 trainer.detect_anomaly=true
PROFILING := 'trainer.profiler={_target_: lightning.pytorch.profilers.PyTorchProfiler, filename: profile}'
group = $(if $($(1)),$(call quote,$(2)=$($(1))))
option = $(if $($(1)),$(2)=$(call quote,$($(1))))
SETTINGS = $(call group,ENCODER,encoder) $(call group,VIEWS,views) $(call group,TRAINER,trainer) \
	$(call group,LOGGER,logger) $(call group,SEED,seed) $(call group,EPOCHS,trainer.max_epochs) \
	$(call group,DEVICES,trainer.devices) $(if $(DEBUG),$(DEBUGGING)) $(if $(PROFILE),$(PROFILING))
OVERRIDES = $(call group,MODEL,model) $(call group,DATA,data) $(SETTINGS) $(call group,RESUME,resume)

.PHONY: help setup train finetune distill sweep compare evaluate export test test-all faults lint format bench lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## create the environment, or bring it up to date with requirements.lock

# Bytecode is compiled while installing: without it the first imports take three times as long. Another build of torch
# (TORCH=...) has the same version but other hashes, and brings its own CUDA packages.
$(INSTALLED): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifeq ($(TORCH),)
	$(BIN)/uv pip sync --python $(BIN)/python --compile-bytecode requirements.lock
else
	awk '/^[a-z]/ { cuda = /^(nvidia-|cuda-|triton==)/; torch = /^(torch|torchvision)==/; if (torch) sub(/ \\$$/, "") } \
		!cuda && !(torch && /^ /)' requirements.lock > $(VENV)/requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --torch-backend=$(TORCH) \
		--reinstall-package torch --reinstall-package torchvision -r $(VENV)/requirements.txt
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@rm -f $(VENV)/.installed-* && echo $(TORCH) > $(VENV)/.torch && touch $@

train: $(INSTALLED) ## train: MODEL=simclr DATA=photos ... (see the top of the Makefile)
	@$(BIN)/python -m kindred train $(OVERRIDES) $(ARGS)

finetune: $(INSTALLED) ## train a run further by labels: RUN=logs/latest LABELS=0.01|0.1|1.0 LAYER=1
	@$(BIN)/python -m kindred finetune $(call option,RUN,--run) $(call option,LABELS,--labels) \
		$(call option,LAYER,--layer) $(if $(SCRATCH),--scratch) $(SETTINGS) $(ARGS)

distill: $(INSTALLED) ## a student learns from a fine-tuned run: RUN=logs/latest ENCODER=... INIT=<run>
	@$(BIN)/python -m kindred distill $(call option,RUN,--run) $(call option,INIT,--init) \
		$(call option,LAYER,--layer) $(SETTINGS) $(ARGS)

sweep: $(INSTALLED) ## many trainings: SWEEP=temperature MODEL=... JOBS=2 (go on: the same command again)
	@$(call option,STORAGE,KINDRED_STORAGE) $(BIN)/python -m kindred sweep $(call quote,$(or $(SWEEP),temperature)) \
		$(OVERRIDES) $(ARGS) $(call option,JOBS,--jobs) $(call option,ENGINE,--engine) $(if $(RETRY),--retry)

compare: $(INSTALLED) ## runs side by side: RUNS="logs/photos/*/*", or a sweep's directory
	@runs=$(call quote,$(or $(RUNS),logs)); if [ -e "$$runs" ] || compgen -G "$$runs" > /dev/null; then IFS=; fi; \
		set -f; words=($$runs); set +f; $(BIN)/python -m kindred compare "$${words[@]}" $(ARGS)

evaluate: $(INSTALLED) ## judge a finished run on the test split: RUN=logs/latest DATA=... LABELS=0.1
	@$(BIN)/python -m kindred evaluate $(call option,RUN,--run) $(call option,DATA,--data) \
		$(call option,LABELS,--labels) $(call option,SEED,--seed) $(ARGS)

export: $(INSTALLED) ## write a run's encoder to a file: RUN=logs/latest FORMAT=safetensors|onnx|torch-export|huggingface
	@$(BIN)/python -m kindred export $(call option,RUN,--run) $(call option,FORMAT,--format) $(ARGS)

test: $(INSTALLED) ## run the tests that take minutes
	$(BIN)/python -m pytest -q -m "not slow and not faults" -n 2 --dist loadfile

test-all: $(INSTALLED) ## run all tests
	$(BIN)/python -m pytest -q -m "not faults"

faults: $(INSTALLED) ## kill, fill up, cut off: what runs survive, as a table in faults.md (docs/reliability.md)
	$(BIN)/python -m pytest -q tests/faults --faults-table=faults.md

lint: $(INSTALLED) ## check style, layers and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/ty check --python $(VENV) --error-on-warning src

format: $(INSTALLED) ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## measure Kindred against its peers; tables go to benchmarks/results/
	$(BIN)/python benchmarks/table.py --output benchmarks/results

lock: pyproject.toml ## resolve requirements.lock anew
	$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-header --no-annotate --all-extras \
		--output-file requirements.lock pyproject.toml

clean: ## delete what was installed and made, but for data/ and logs/
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
