# `make demo` and `make test` are all a newcomer needs; both build .venv first.
#   make demo VIDEOS=<folder>      on your own videos
#   make demo PROFILE=published    with the published models and filters
#   make serve VIDEOS=<folder> WAREHOUSE=<folder> PORT=4200
PYTHON ?= python3
VIDEOS ?=
WAREHOUSE ?=
PORT ?= 4200
BIN := .venv/bin

.PHONY: env demo test test-all lint lock serve clean

env: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.txt
	$(BIN)/python -m ensurepip --upgrade >/dev/null
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	$(BIN)/cutroom demo $(if $(VIDEOS),--videos "$(VIDEOS)") $(if $(PROFILE),--profile "$(PROFILE)")

test: env
	$(BIN)/python -m pytest -n auto --dist worksteal

test-all: env
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

serve: env
	$(if $(VIDEOS),CUTROOM_FOOTAGE="$(abspath $(VIDEOS))") $(if $(WAREHOUSE),CUTROOM_WAREHOUSE="$(abspath $(WAREHOUSE))") \
	  $(BIN)/python deploy/serve.py --port $(PORT)

# Pins every package for every platform, without registry addresses.
lock: env
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-header --python-version 3.11 \
	  --extra dev --overrides deploy/overrides.in pyproject.toml deploy/env.in --output-file requirements.txt

clean:
	rm -rf .venv
