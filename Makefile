# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 1000
UV_COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --quiet
SHOP_EXTRAS = asgi uvicorn httpx redis hardening postgres policy

.PHONY: help demo demo-shop test unit contract e2e lint types contracts check bench bench-sdk up down status lock image clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/ready ## start a real control plane, issue and rotate credentials, show them at work (KEEP=1 leaves it up)
	@$(BIN)/python -m examples.demo $(if $(KEEP),--keep,)

demo-shop: $(VENV)/ready ## run the shop: services, customers, thieves, while every credential rotates (KEEP=1 leaves it up)
	@$(BIN)/python -m examples.shop.run $(if $(KEEP),--keep,)

test: $(VENV)/ready ## run all tests, against a real control plane
	$(BIN)/python -m tests.controlplane build
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

unit: $(VENV)/ready ## run the tests that need no services
	$(BIN)/pytest tests/unit sdk/python/tests services/auth/tests/unit

contract: $(VENV)/ready ## check each adapter against the real server
	$(BIN)/pytest tests/contract services/auth/tests/contract

e2e: $(VENV)/ready ## drive the operator as a user does
	$(BIN)/pytest tests/e2e

lint: $(VENV)/ready ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready ## mypy, strict
	$(BIN)/mypy

contracts: $(VENV)/ready ## import-linter: the layers
	$(BIN)/lint-imports

check: lint types contracts ## everything that reads the code without running it

bench: $(VENV)/ready ## measure against the bare floor: make bench N=1000
	$(BIN)/python -m bench --count $(N)

bench-sdk: $(VENV)/ready ## measure what the SDK costs a request, beside the bare cryptography: make bench-sdk N=1000
	@$(BIN)/python -m bench.sdk --samples $(N)

up: $(VENV)/ready ## leave a control plane running
	$(BIN)/python -m tests.controlplane up --detach

down: $(VENV)/ready ## stop it
	$(BIN)/python -m tests.controlplane down

status: $(VENV)/ready ## show it
	$(BIN)/python -m tests.controlplane status

lock: $(VENV)/ready ## resolve the dependencies anew (versions and hashes, no addresses)
	$(UV_COMPILE) --upgrade pyproject.toml --output-file requirements/runtime.txt
	$(UV_COMPILE) --upgrade pyproject.toml --extra dev --output-file requirements/dev.txt
	$(UV_COMPILE) services/auth/pyproject.toml --constraint requirements/dev.txt --no-emit-package serviceidentity-sdk \
		--output-file requirements/auth-service.txt
	$(UV_COMPILE) --upgrade --group go --output-file requirements/go.txt
	$(UV_COMPILE) --upgrade --group node --output-file requirements/node.txt
	$(UV_COMPILE) --upgrade --group build --output-file requirements/build.txt
	$(UV_COMPILE) --upgrade --constraint requirements/dev.txt $(SHOP_EXTRAS:%=--extra %) sdk/python/pyproject.toml \
		examples/shop/requirements.in --output-file requirements/shop.txt

image: ## build the container image with buildah or docker
	$(shell command -v buildah >/dev/null && echo buildah bud || echo docker build) -t serviceidentity-operator .

clean: ## remove everything that was installed or built here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The virtual environment, made anew when the lock file changes. Go and Node are installed only where there is none.
$(VENV)/ready: requirements/dev.txt requirements/go.txt requirements/node.txt pyproject.toml sdk/python/pyproject.toml services/auth/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	@echo "installing the locked dependencies into $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@command -v go >/dev/null || { echo "installing a Go toolchain into $(VENV) ..." >&2; \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/go.txt; }
	@command -v npm >/dev/null || { echo "installing Node into $(VENV) ..." >&2; \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/node.txt; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . --editable sdk/python \
		--editable services/auth
	@touch $@
