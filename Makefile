# Two commands: `make book` renders the book, `make test` runs the tests. `make help` lists the rest.
#
# Variables, given behind the command (make book PROFILE=smoke):
#   PYTHON       interpreter that the environment is made with, 3.11 or newer (default: python3)
#   PIP_ARGS     further arguments for `pip install`, such as another index or --no-index --find-links FOLDER
#   PROFILE      smoke (a rehearsal that learns nothing), quick (default) or full (wants a GPU)
#   FRESH        1: the chapters make their runs and measurements here and use no recorded ones
#   BROWSER      Chromium or Chrome that prints the PDF and that `make check` uses (default: what is found)
#   PYTEST_ARGS  further arguments for pytest, such as -k patterns
#   DATA         folder in the GLUE layout that `make evidence` reads (default: glue)
#   PORT         port that `make serve` listens on (default: 8000)

PYTHON ?= python3
PIP_ARGS ?=
PROFILE ?= quick
FRESH ?=
BROWSER := $(SPARSEBERT_BROWSER)
PYTEST_ARGS ?=
DATA ?= glue
PORT ?= 8000

export SPARSEBERT_BROWSER := $(BROWSER)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INDEX := _build/html/index.html
CLASSROOM := _build/classroom

# In a classroom pip finds everything in wheels/, packages and data, and asks no index.
ifneq ($(wildcard wheels),)
space := $() $()
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := file://$(subst $(space),%20,$(CURDIR))/wheels
endif

.DEFAULT_GOAL := help
.PHONY: help book pdf slides student classroom test check evidence serve clean distclean
.NOTPARALLEL:

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1|/' | \
		while IFS='|' read -r name meaning; do printf '  %-15s %s\n' "$$name" "$$meaning"; done
	@sed -nE 's/^#   ([A-Z_]+ .*)/  \1/p' $(firstword $(MAKEFILE_LIST))

book: $(INSTALLED)  ## run the chapters that changed, render the book, end with its path
	@SPARSEBERT_FRESH=$(FRESH) $(BIN)/sparsebert book --profile $(PROFILE)

pdf: $(INSTALLED)  ## the whole book as one PDF; needs Chromium
	@SPARSEBERT_FRESH=$(FRESH) $(BIN)/sparsebert book --profile $(PROFILE) --pdf

slides: $(INSTALLED)  ## slides for one lecture, from the chapters' figures and findings
	@SPARSEBERT_FRESH=$(FRESH) $(BIN)/sparsebert book --slides --profile $(PROFILE)

student: $(INSTALLED)  ## the same book without solutions in pages and downloads, to hand out
	@SPARSEBERT_FRESH=$(FRESH) $(BIN)/sparsebert book --students --profile $(PROFILE)

classroom: $(INSTALLED)  ## a folder to copy to machines of this kind: `make book` works in it without a network
	@rm -rf $(CLASSROOM) && mkdir -p $(CLASSROOM)
	@tar -cf - --exclude .git --exclude-from .gitignore . | tar -xf - -C $(CLASSROOM)
	@$(BIN)/python -m pip wheel --disable-pip-version-check --quiet $(PIP_ARGS) -r requirements.txt \
		--wheel-dir $(CLASSROOM)/wheels
	@SPARSEBERT_CACHE_DIR=$(CLASSROOM)/wheels $(BIN)/python -c \
		'from sparsebert.data.tasks import get_task; get_task("reviews").load()'
	@echo "$(CURDIR)/$(CLASSROOM) ($$(du -sh $(CLASSROOM) | cut -f1))"

test: $(INSTALLED)  ## everything that is needed, then linters, types and tests
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/pyrefly check --summary=none
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(PYTEST_ARGS)

check: browser book student slides classroom  ## book, student edition, slides and classroom, in a browser
	@$(BIN)/python -m pytest tests/check -n auto --maxprocesses 4 $(PYTEST_ARGS)

evidence: $(INSTALLED)  ## make the runs behind the claims that are not recorded yet: days on one core
	@for grid in book/grids/evidence/*.yaml; do \
		echo "$$grid"; $(BIN)/sparsebert sweep $$grid --data-dir $(DATA) --runs-dir runs/evidence || exit 1; done

serve: $(INSTALLED)  ## show the book on localhost, at PORT (build it first if there is none)
	@test -f $(INDEX) || $(MAKE) --no-print-directory book
	@echo "the book is on http://localhost:$(PORT) until you press Ctrl-C"
	@$(BIN)/python -m http.server $(PORT) --bind localhost --directory $(dir $(INDEX)) 2>/dev/null || \
		{ echo "port $(PORT) can't be used; try another: make serve PORT=8001"; exit 1; }

clean:  ## remove the rendered book; finished runs in runs/ are kept
	rm -rf _build

distclean: clean  ## remove the environment and the tools' caches too; finished runs are kept
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info

# The stamp is written last, so an interrupted install is done again.
$(INSTALLED): requirements.txt pyproject.toml $(if $(wildcard $(BIN)/python),,environment)
	@echo "installing what requirements.txt pins (the first time this takes some minutes)"
	@rm -f $@
	@$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) --no-deps --editable .
	@touch $@

.PHONY: browser
browser: $(INSTALLED)
	@$(BIN)/python -c 'import sys; sys.tracebacklimit = 0; from sparsebert.chapters import rendering; rendering.find_browser()'

.PHONY: environment
environment:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "there is no $(PYTHON); install Python 3.11 or newer, or name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version) is too old; name Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the module venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
