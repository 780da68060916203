# costar: `make` prints the verbs; `make demo` runs the whole chain on two CPU cores.
PYTHON      ?= python3
VENV        := .venv
COSTAR      := $(VENV)/bin/costar
SUITE       ?= demo
TORCH_INDEX ?=
export Q    := $(value Q)

OPTIONS = $(if $(MODEL),--model "$(MODEL)") $(if $(ARM),--arm "$(ARM)") $(if $(DRAW),--draw "$(DRAW)") $(ARGS)
VERBS   = corpus insert manifest verify report release status all

.PHONY: help demo plan train eval sql $(VERBS) test test-slow lint types bench bench-gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                 the whole chain for suites/demo.toml, on two CPU cores, no network"
	@echo "make test                 the tests;  make test-slow: kill, disk, browser and old-client drills"
	@echo "make VERB SUITE=my.toml   VERB is plan, corpus, insert, manifest, verify, train, eval, report, release, sql, status, all"
	@echo "make train MODEL=15m      MODEL, ARM and DRAW choose runs of train and eval; ARGS adds options, such as ARGS=--force"
	@echo "make sql Q='from runs'    SQL, a table or a recipe; without Q the list of recipes"
	@echo "make lint types bench     ruff, mypy, speed ratios"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "costar needs Python 3.11 or newer")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@exec $(COSTAR) all demo

$(VERBS): $(VENV)/.installed
	@exec $(COSTAR) $@ "$(SUITE)" $(ARGS)

plan: $(VENV)/.installed
	@exec $(COSTAR) plan "$(SUITE)" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

train eval: $(VENV)/.installed
	@exec $(COSTAR) $@ "$(SUITE)" $(OPTIONS)

sql: $(VENV)/.installed
	@if [ -n "$$Q" ]; then exec $(COSTAR) sql "$(SUITE)" "$$Q" $(ARGS); else exec $(COSTAR) sql "$(SUITE)" $(ARGS); fi

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed
	-tests/install-clients $(VENV)
	$(VENV)/bin/python -m pytest -n 2 -m slow $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed
	mkdir -p .typed && ln -sfn .. .typed/costar
	$(VENV)/bin/mypy core corpus insertion manifests train eval release
	MYPYPATH=.typed $(VENV)/bin/mypy --explicit-package-bases --disallow-untyped-defs bench

bench: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -c bench/constraints.txt -e ".[dev,bench]"
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(VENV)/bin/python bench/reading.py
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(VENV)/bin/python bench/training.py
	$(VENV)/bin/python bench/tokenizing.py
	$(VENV)/bin/python bench/corpus.py
	test ! -d ../shared/data || $(VENV)/bin/python bench/decontaminating.py ../shared/data
	$(VENV)/bin/python bench/insertion.py
	$(VENV)/bin/python bench/anchor.py
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(VENV)/bin/python bench/scoring.py

bench-gpu:
	@exec $(or $(wildcard $(VENV)/bin/python),$(PYTHON)) bench/gpu.py

clean:
	rm -rf build
