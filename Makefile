# Every target sets up what it needs and runs again in seconds when nothing changed.
# .venv: the package with its light extras. .venv-tinker: torch, Tinker, other libraries' trainers.

PYTHON ?= python3
BIN := .venv/bin
TINKER := .venv-tinker/bin
READY := .venv/.ready
TINKER_READY := .venv-tinker/.ready
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all bench lint format setup browser clean

demo: $(READY)
	$(BIN)/memroute demo --out runs/demo --seed 0

test: lint
	$(BIN)/python -m pytest -m "not heavy" -n 2

# What is heavy, to be run after `make test`; the trainers first: what takes longest fails soonest.
test-all: browser $(READY) $(TINKER_READY)
	$(TINKER)/python -m pytest tests/tinker tests/trainers
	$(BIN)/python -m pytest -m heavy --ignore=tests/tinker --ignore=tests/trainers

bench: $(READY)
	$(BIN)/python -m bench

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -e ".[dev]"
	touch $@

# torch first and by itself: anything that depends on it would bring the CUDA build.
$(TINKER_READY): pyproject.toml
	test -x $(TINKER)/python || $(PYTHON) -m venv .venv-tinker
	$(TINKER)/python $(PIP) torch==2.13.0
	$(TINKER)/python $(PIP) -e ".[tinker,trainers,report]"
	touch $@

# The report is tested in Debian's Chromium; elsewhere those tests skip and say so.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	{ command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
	  apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	echo "no Chromium here: the browser tests will be skipped"

clean:
	rm -rf .venv .venv-tinker .venv-skyrl runs
