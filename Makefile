# What a newcomer needs. CI calls the same targets.
PYTHON ?= python3
UV = uv==0.13.9
AUDIT = pip-audit==2.10.1
SBOM = cyclonedx-bom==7.5.0
VENV = .venv/bin
# pip may have been told of a mirror, and the system of certificates; uv asks neither by itself.
MIRROR = $$($(VENV)/python -m pip config list | sed -n "s/^[^=]*[.]index-url='\(.*\)'$$/\1/p" | tail -1)
RUN_UV = index=$(MIRROR); UV_SYSTEM_CERTS=1 VIRTUAL_ENV="$(CURDIR)/.venv" \
	env $${index:+UV_DEFAULT_INDEX=$$index} $(VENV)/uv
COMPILE = $(RUN_UV) pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --quiet
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# `eval "$(python -m demo.stack env)"` leaves EVERGREEN_HOME in the shell. Another clone's `make` must not act on
# that home, so only the command line chooses one: make demo EVERGREEN_HOME=<folder>
ifneq ($(origin EVERGREEN_HOME),command line)
unexport EVERGREEN_HOME
endif
.DEFAULT_GOAL := help
.PHONY: help install lock demo up up-demo down clean lint test test-stack test-full bench audit sbom image
# The compose stack; COMPOSE_MORE adds files, as `-f deploy/logs/compose.yaml`, or `-f tests/stack/rig.yaml` where an engine can't reach the network.
CODE = $$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)
COMPOSE = EVERGREEN_CODE=$(CODE) docker compose -f docker-compose.yaml
WORKERS ?= 2
SCHEDULERS ?= 1
UP = $(PROFILES:%=--profile %) up -d --build --wait --scale worker=$(WORKERS) --scale scheduler=$(SCHEDULERS)
IMAGE ?= evergreen

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: .venv/installed ## make .venv from the lock (PYTHON=python3.12 chooses another one)

.venv/installed: requirements.txt requirements-onnx.txt requirements-openlineage.txt requirements-events.txt requirements-dask.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Evergreen needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make install PYTHON=<another one>")'
	@test -x $(VENV)/python || $(PYTHON) -m venv .venv \
		|| { echo "python3-venv is missing: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }
	@$(VENV)/python -m pip --version >/dev/null 2>&1 || $(VENV)/python -m ensurepip
	$(VENV)/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(RUN_UV) pip install --quiet --compile-bytecode --require-hashes \
		-r requirements.txt -r requirements-onnx.txt -r requirements-openlineage.txt -r requirements-events.txt \
		-r requirements-dask.txt -r requirements-dev.txt
	@touch $@

lock: install ## resolve requirements*.in and the extras anew
	$(COMPILE) --upgrade requirements.in -o requirements.txt
	$(COMPILE) --upgrade --extra onnx -c requirements.txt pyproject.toml -o requirements-onnx.txt
	$(COMPILE) --upgrade --extra openlineage -c requirements.txt pyproject.toml -o requirements-openlineage.txt
	$(COMPILE) --upgrade --extra events -c requirements.txt pyproject.toml -o requirements-events.txt
	$(COMPILE) --upgrade --extra dask -c requirements.txt pyproject.toml -o requirements-dask.txt
	$(COMPILE) --upgrade requirements-dev.in -o requirements-dev.txt

# Neither tool is in the lock: uv runs each in an environment of its own. --strict, or a package of which nothing is
# known counts as one without a flaw.
audit: install ## ask for known flaws of what is locked (where such data can be had)
	@$(RUN_UV) tool run --from $(AUDIT) pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--vulnerability-service $(or $(SERVICE),pypi) -r requirements.txt -r requirements-onnx.txt -r requirements-openlineage.txt \
		-r requirements-events.txt -r requirements-dask.txt -r requirements-dev.txt

image: ## build Airflow's image with the code in it (IMAGE=registry/name:tag): needs a Docker engine
	docker build --file deploy/airflow/Dockerfile --target evergreen --build-arg CODE=$(CODE) --tag $(IMAGE) .

sbom: install ## write .venv/sbom.json (CycloneDX), from the lock
	@$(RUN_UV) tool run --from $(SBOM) cyclonedx-py requirements requirements.txt --pyproject pyproject.toml \
		--output-reproducible --of JSON -o $(VENV:/bin=)/sbom.json

demo: install ## start the servers, load, train, score a week; again: go on from there
	@$(VENV)/python -m demo

up: .env ## start docker-compose.yaml's stack (WORKERS=2 SCHEDULERS=1 PROFILES="serve monitoring"): needs a Docker engine
	$(COMPOSE) $(COMPOSE_MORE) $(UP)

up-demo: install .env ## the same with the demo's flights, loaded, trained and scored
	$(COMPOSE) -f demo/compose.yaml $(COMPOSE_MORE) $(UP)
	@$(VENV)/python -m demo.composed

.env:
	@$(PYTHON) deploy/dotenv.py

down: ## stop the demo's servers and the compose stack; what they hold stays
	@test ! -x $(VENV)/python || $(VENV)/python -m demo.stack down
	@test ! -e .env || ! docker info >/dev/null 2>&1 || $(COMPOSE) -f demo/compose.yaml $(COMPOSE_MORE) --profile monitoring --profile serve down

clean: ## stop the demo's servers and remove all they hold; the compose stack stays as it is
	@test -x $(VENV)/python || { echo "nothing is removed: only .venv can stop the servers, and it is missing;" \
		"make install, then make clean" >&2; exit 1; }
	@$(VENV)/python -m demo.stack clean

lint: install ## ruff and mypy
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy .

# Three workers for two cores: one of them waits for Airflow most of the time.
test: lint ## lint and all tests but the longest
	$(VENV)/python -m pytest -m "not full" -n 3 --no-loadscope-reorder

test-stack: install ## the tests of docker-compose.yaml, which fail without a Docker engine
	EVERGREEN_FULL=1 $(VENV)/python -m pytest tests/stack

# Four: more of these tests wait for servers.
test-full: lint ## lint and every test
	$(VENV)/python -m pytest -n 4 --no-loadscope-reorder

bench: install ## measure all that docs/reference/benchmarks.md says, and write it there
	@$(VENV)/python -m benchmarks
