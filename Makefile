# `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TOOLS := .venv-tools/.installed
DEV := cyclonedx-python-lib[json-validation] grpcio-tools grpc-stubs flask flask-cors jsonschema moto[s3] mypy playwright pytest pytest-timeout pytest-xdist ruff statsmodels types-docker types-protobuf types-PyYAML
PACKAGES := -e proto -e "services/compressor[cpu,tools]" -e "services/runtime[onnxruntime,openvino,pytorch,tensorrt-rtx,onnxruntime-tensorrt-rtx]" -e "orchestrator[mlflow,pandas,postgresql,ray]"
MANIFEST ?= data/manifests/quickstart.yaml
TESTDATA ?= ../shared/data
export BASE_IMAGE ?= python:3.11.14-slim-bookworm
export PQBENCH_UID := $(shell id -u)
export PQBENCH_GID := $(shell id -g)
export DOCKER_BUILDKIT := 1

IMAGE_DIGESTS = for image in $$(docker compose config --images | sort -u); do \
	docker image inspect --format "$$image {{.Id}}" $$image || exit 1; done
.PHONY: help setup setup-tools quickstart up down image-digests test test-long test-more test-containers test-all lint format proto bench fuzz chaos gpu-check matrix thesis clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## create .venv and install everything, pinned in constraints.txt

$(INSTALLED): constraints.txt proto/pyproject.toml services/compressor/pyproject.toml services/runtime/pyproject.toml orchestrator/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pqbench needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { echo "on Debian: apt install python3-venv"; exit 2; }
	$(BIN)/pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt $(PACKAGES) $(DEV)
	@touch $@

setup-tools: $(TOOLS) ## create .venv-tools, on top of .venv: the quantizers whose pins differ (AMD Quark, Qualcomm AIMET)

$(TOOLS): $(INSTALLED) constraints-tools.txt
	$(PYTHON) -m venv .venv-tools
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(.venv-tools/bin/python -c 'import site; print(site.getsitepackages()[0])')/pqbench.pth"
	.venv-tools/bin/pip install --disable-pip-version-check --progress-bar off --quiet -c constraints-tools.txt aimet-onnx amd-quark
	.venv-tools/bin/pip install --disable-pip-version-check --quiet --no-deps -e proto -e services/compressor
	@touch $@

quickstart: setup ## run the quickstart experiment on this machine's CPU
	$(BIN)/pqbench run $(MANIFEST)

up: ## run MANIFEST in containers; results in data/experiments, owned by you
	@mkdir -p data/experiments
	docker compose build
	images="$$($(IMAGE_DIGESTS))" && PQBENCH_IMAGES="$$images" MANIFEST=$(MANIFEST) \
		docker compose up --no-build --exit-code-from orchestrator

image-digests: ## print the digests of the images, which `make up` has in the run's record
	@$(IMAGE_DIGESTS)

down: ## remove the containers and their volume of blobs and caches
	docker compose down --volumes

test: setup ## run the quick tests: unit, contract, end to end (10 minutes on two fast cores, 25 on two slow ones)
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m "not long and not container"

test-long: setup ## run the long tests: kills, hangs, damage, searches, models, versions
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m "long and not alone and not more"
	$(BIN)/pytest -m "long and alone"

test-more: setup setup-tools ## run the tests that repeat long ones on more models, versions and processes
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m more

test-containers: setup ## run the tests with a Docker engine: images, Compose, swapping (BASE_IMAGE=… to build on)
	docker compose --profile rtx build
	$(BIN)/pytest -m container

test-all: test test-long test-more test-containers ## run all tests

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy proto/src/pqbench_wire proto/gen.py services/compressor/src services/runtime/src orchestrator/src

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: setup ## regenerate the gRPC stubs
	$(BIN)/python proto/gen.py

bench: setup setup-tools ## run the benchmarks, two or three hours (IMAGES=folder, TESTDATA=folder for what needs them); results: benchmarks/results
	$(BIN)/python benchmarks/fidelity.py
	$(BIN)/python benchmarks/verdicts.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/load.py
	$(if $(wildcard data/experiments),$(BIN)/python benchmarks/cluster.py data)
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/search.py $(TESTDATA))
	$(if $(IMAGES),$(BIN)/python benchmarks/preparation.py $(IMAGES))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/quantizers.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/routes.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/recovery.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/compensation.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/few_bits.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/roofline.py $(TESTDATA))
	$(if $(wildcard $(TESTDATA)),$(BIN)/python benchmarks/allocation.py $(TESTDATA))
	$(BIN)/python benchmarks/ranking.py

FUZZ := onnx requests manifests inventories checkpoints images ini engines pt2
fuzz: setup ## feed changed inputs to each parser (MINUTES=… each, or COUNT=20000; FUZZ="onnx pt2"); .fuzz/ keeps the corpus
	@set -e; for target in $(FUZZ); do $(BIN)/python -m tests.fuzz $$target $(if $(MINUTES),--minutes $(MINUTES),--count $(or $(COUNT),20000)); done

chaos: setup ## disturb runs at random (MINUTES=30, SEED=…): each must end with the table of an undisturbed one
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

gpu-check: ## check and time what this NVIDIA machine's libraries allow; numpy and torch are enough
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check.py

matrix: setup ## every technique on every model of the thesis; takes an hour or two, goes on where it was interrupted
	@test -e $(TESTDATA)/imagenet_sample.zip || { echo "there is no $(TESTDATA)/imagenet_sample.zip: make matrix TESTDATA=folder"; exit 2; }
	$(BIN)/python benchmarks/matrix.py $(TESTDATA)/imagenet_sample.zip

thesis: setup ## the thesis' study, as far as this machine can do it (docs/thesis.md); takes half an hour
	@test -e $(TESTDATA)/imagenet_sample.zip || { echo "there is no $(TESTDATA)/imagenet_sample.zip: make thesis TESTDATA=folder"; exit 2; }
	$(BIN)/python benchmarks/thesis.py $(TESTDATA)

clean: ## remove .venv, caches and all run data except manifests and inventories
	rm -rf .venv .venv-tools .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find data -mindepth 1 -maxdepth 1 ! -name manifests ! -name inventories -exec rm -rf {} +
