# `make` lists the targets. Variables: PYTHON (the interpreter that .venv is made with), WHEELS (a folder of wheels).

PYTHON ?= python3.11 python3.12 python3.13 python3
WHEELS ?= cache/wheels

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# Stands while an install is under way: where it is found at the start, the last install was interrupted.
UNFINISHED := $(VENV)/.unfinished
OFFLINE = $(if $(wildcard $(WHEELS)/*.whl),--no-index --find-links "$(WHEELS)")

IS_FIT := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make results`. The time goes into 14 N searches of MAX_ITER iterations; the paper's have 50,000. What is published was
# measured with these values; PRECISION=float32 is faster where the processor does not compute in bfloat16.
N ?= 501
SAMPLES ?= 2048
MAX_ITER ?= 50
PRECISION ?= mixed_bfloat16
DATA ?= ../shared/data/speech_commands_digits
GENERATOR ?= checkpoint/
ENCODER ?=
# For the studies of samples and of attribution: another generator's clips; generators that are told from this one.
REFERENCE ?= $(wildcard ../shared/data/wavegan_reel/published_phase_shuffle_2)
OTHER_SEED ?=
EARLIER ?=
OUTPUT ?= results/tables$(if $(filter-out 501,$(N)),-$(N))
REPORT ?= $(if $(filter results/tables,$(OUTPUT)),RESULTS.md,$(OUTPUT)/RESULTS.md)
PUBLISH ?= $(if $(filter results/tables,$(OUTPUT)),--readme README.md --publish results/published)
# Without ENCODER each preset takes its own.
NAMED_ENCODER = $(if $(ENCODER),--encoder "$(ENCODER)")
METRICS = $(RUN) calculate_metrics.py "$(DATA)" --generator "$(GENERATOR)" $(NAMED_ENCODER) --n $(N) \
	--solver batched --precision $(PRECISION) --max_iter $(MAX_ITER) --hybrid_max_iter $(MAX_ITER) --output "$(OUTPUT)"
DETECTION = $(RUN) deepfake_detection.py "$(DATA)" --generator "$(GENERATOR)" $(NAMED_ENCODER) --output "$(OUTPUT)" \
	--n $$(( $(N) < 10 ? 10 : $(N) < 100 ? $(N) : 100 )) --repeats $$(( $(N) < 100 ? 2 : 10 ))
STUDY_OPTIONS = --generator "$(GENERATOR)" $(NAMED_ENCODER)
RECOVERY = $(RUN) -m studies.recovery $(STUDY_OPTIONS) --precision $(PRECISION) --output "$(OUTPUT)/recovery.jsonl"
SEARCHES = published,lbfgs,hybrid,adam,adam_stochastic,basin_cma,search
SPEECH = $(RUN) -m studies.speech "$(DATA)" $(STUDY_OPTIONS) --precision $(PRECISION) --results "$(OUTPUT)" \
	--n $$(( $(N) < 100 ? 8 : 64 )) --max_iter $$(( $(MAX_ITER) < 40 ? $(MAX_ITER) : 40 ))
OBJECTIVES = mr_stft=1 log_mel=1 log_mel=1,features=1 log_mel=1,features=3
# Verdicts need thresholds of the same networks; they are computed in float32, in which samples are met to their rounding.
CALIBRATION = "$(OUTPUT)/attribution.json"
ATTRIBUTION_N = $$(( $(N) < 100 ? 8 : 300 ))

.PHONY: help setup setup-ray setup-docs setup-export wheels demo results page audio docs test test-slow lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: $(INSTALLED) ## make .venv with the packages of requirements-dev.txt (PYTHON=... chooses the interpreter)

$(INSTALLED): requirements.txt requirements-dev.txt
	@set -e; \
	if [ -e $(UNFINISHED) ] || ! $(RUN) -c '$(IS_FIT); import pip' 2>/dev/null; then \
		for python in $(PYTHON) none; do \
			if $$python -c '$(IS_FIT)' 2>/dev/null; then break; fi; \
		done; \
		if [ $$python = none ]; then \
			echo "error: needs Python 3.11, 3.12 or 3.13 with its venv module. Tried:"; \
			for python in $(PYTHON); do \
				if version=$$($$python --version 2>&1); then echo "  $$python: $$version"; \
				else echo "  $$python: not found"; fi; \
			done; \
			echo "Install one (on Debian with its -venv package), or name it: make setup PYTHON=/path/to/python3.12"; \
			exit 1; \
		fi >&2; \
		echo "Making $(VENV) with $$($$python --version)"; \
		rm -rf $(VENV); mkdir $(VENV); touch $(UNFINISHED); \
		$$python -m venv $(VENV); \
	fi; \
	touch $(UNFINISHED); \
	echo "Installing requirements-dev.txt, about 800 MB of wheels the first time"; \
	$(RUN) -m pip install --quiet $(OFFLINE) -r requirements-dev.txt; \
	rm $(UNFINISHED); \
	touch $@

setup-ray: setup ## add what --engine ray, --store s3://... and --manifest need (requirements-ray.txt)
	$(RUN) -m pip install --quiet $(OFFLINE) -r requirements-ray.txt

wheels: setup ## collect the wheels in cache/wheels, from where a later `make setup` installs without a network
	$(RUN) -m pip download --quiet --dest "$(WHEELS)" -r requirements-dev.txt

setup-docs: setup ## what `make docs` and the notebook docs/walkthrough.ipynb need besides
	$(RUN) -m pip install --quiet -r requirements-docs.txt

setup-export: setup ## what export.py needs besides, for ONNX and for Hugging Face's datasets
	$(RUN) -m pip install --quiet -r requirements-export.txt

demo: setup ## invert the demo clips by all four methods and say where the page to listen to is
	$(RUN) latent_vector_recovery.py datasets/demo --method all --max_iter 200 --output results/demo
	@echo "Open in a browser: file://$(CURDIR)/results/demo/index.html"

results: setup ## every table and figure of the paper, RESULTS.md and its lines (N=501 clips a row; N=40: a first look)
	$(METRICS) --all --preset paper
	$(METRICS) --all --preset aligned
	$(METRICS) --figure 2
	$(METRICS) --figure 3
	$(DETECTION) --preset paper
	$(DETECTION) --preset aligned
	for preset in aligned paper; do \
		$(RUN) -m studies.judges "$(DATA)" $(STUDY_OPTIONS) --n 600 --results "$(OUTPUT)" --preset $$preset || exit; \
	done
	for n in $(N) $(SAMPLES); do \
		$(RUN) -m studies.samples --generator "$(GENERATOR)" --real "$(DATA)" --n $$n --results "$(OUTPUT)" \
			$(if $(REFERENCE),--reference "$(REFERENCE)") || exit; \
	done
	$(RECOVERY) --n $$(( $(N) < 100 ? 4 : 64 )) --batch_size 8 --methods $(SEARCHES)
	for size in 1 32; do \
		$(RECOVERY) --n $$(( $(N) < 100 ? 2 : 16 )) --batch_size $$size --methods published,lbfgs,hybrid,search || exit; \
	done
	$(RUN) -m studies.formats "$(DATA)" $(STUDY_OPTIONS) --precision $(PRECISION) --results "$(OUTPUT)" \
		--n $$(( $(N) < 100 ? 4 : 64 ))
	$(SPEECH) --split selection --objectives "$(OBJECTIVES)"
	$(SPEECH) --split report --projected
	$(RUN) -m studies.projected "$(DATA)" $(STUDY_OPTIONS) --precision $(PRECISION) --results "$(OUTPUT)" \
		--pairs $$(( $(N) < 100 ? 2 : 16 )) --max_iter $$(( $(MAX_ITER) < 40 ? $(MAX_ITER) : 100 ))
	$(RUN) attribute.py $(STUDY_OPTIONS) --calibrate "$(DATA)" --calibration $(CALIBRATION) \
		--n $$(( $(N) < 100 ? 8 : 100 )) --output "$(OUTPUT)/calibration"
	$(RUN) -m studies.attribution "$(DATA)" $(STUDY_OPTIONS) --calibration $(CALIBRATION) --n $(ATTRIBUTION_N) \
		--robust_n $$(( $(N) < 100 ? 2 : 24 )) --output "$(OUTPUT)/attribution" --results "$(OUTPUT)" \
		$(if $(OTHER_SEED),--other_seed "$(OTHER_SEED)") $(if $(EARLIER),--earlier "$(EARLIER)")
	$(RUN) -m studies.results_md "$(OUTPUT)" --output "$(REPORT)" $(PUBLISH)

page: setup ## RESULTS.md and the numbers of README.md again, from the lines in results/published alone
	$(RUN) -m studies.results_md --readme README.md

audio: setup ## the sounds in docs/audio: clips and their reconstructions
	$(RUN) -m docs.audio_examples "$(DATA)"

docs: setup-docs ## the API's pages, docs/api/index.html
	$(RUN) -m pdoc --docformat google --output-directory docs/api models utils

lint: setup ## check the code and its format with ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

test: lint ## lint, then the fast tests
	$(RUN) -m pytest -q -n 2 --dist loadfile

test-slow: setup ## the slow tests: minutes each; some need a browser and say so where there is none
	$(RUN) -m pytest -q -m slow -rs

clean: ## remove caches and the demo's results; .venv, logs, other results and data stay
	rm -rf .pytest_cache .ruff_cache .hypothesis results/demo
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +
