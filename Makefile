# Two commands do everything on a fresh machine (Python 3.11+, pip, make): `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check
# torch is pinned in constraints.txt; see README "Choosing a torch build".
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# Two workers of one thread each: more threads than cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest
# Tests start many processes; what one compiles the next one reads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test test-slow test-browser test-services test-peers lint format bench clean help

help:  ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.ready  ## set up, then the main job on the shipped model: chance -> repaired, one table, runs/demo/report.html
	$(VENV)/bin/clearsight demo --overwrite

serve: $(VENV)/.ready  ## set up, then the search page on the shipped model and a drawn world
	$(VENV)/bin/clearsight serve

test: $(VENV)/.ready-test  ## set up, then the offline tests
	$(PYTEST) -n 2 --dist loadfile

test-slow: $(VENV)/.ready-test  ## the tests marked slow
	$(PYTEST) -m slow -n 2 --dist loadfile

test-browser: $(VENV)/.ready-browser  ## the pages in a headless Chromium (Debian: apt-get install chromium)
	$(VENV)/bin/python -m pytest -m browser

test-services: $(VENV)/.ready-services  ## stores, object storage and Ray, each started by its tests
	$(PYTEST) -m services

test-peers: $(VENV)/.ready-test $(VENV)-peers/.ready $(VENV)-stock/.ready $(VENV)-mteb/.ready  ## formats and protocols against the libraries that own them, each in what it asks for
	CLEARSIGHT_PEERS=$(CURDIR)/$(VENV)-peers/bin/python CLEARSIGHT_STOCK=$(CURDIR)/$(VENV)-stock \
	CLEARSIGHT_MTEB=$(CURDIR)/$(VENV)-mteb $(PYTEST) -m peers -n 2 --dist loadfile

lint: $(VENV)/.ready-lint  ## style, types, import floors
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.ready-lint  ## rewrite the code in the house style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.ready-bench $(VENV)-peers/.ready  ## the benchmarks beside their peers (hours on two cores), docs/benchmarks.md
	CLEARSIGHT_PEERS=$(CURDIR)/$(VENV)-peers/bin/python $(VENV)/bin/python benchmarks/run_all.py --save

clean:  ## remove the environments and every cache
	rm -rf $(VENV) $(VENV)-peers $(VENV)-stock $(VENV)-mteb runs .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.exit("Clearsight needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.ready: $(VENV)/.pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[serve]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(INSTALL) --group test
	@touch $@

$(VENV)/.ready-browser: $(VENV)/.ready-test
	$(INSTALL) --group browser
	@touch $@

$(VENV)/.ready-services: $(VENV)/.ready-test
	$(INSTALL) --group services
	@touch $@

$(VENV)/.ready-lint: $(VENV)/.ready-test
	$(INSTALL) --group lint
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready-test
	$(INSTALL) --group bench --group services
	@touch $@

$(VENV)-peers/.ready: requirements-peers.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install --quiet --constraint $< torch sae-lens eai-sparsify einops pillow scipy scikit-learn
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install --quiet --constraint $< --no-deps overcomplete dictionary-learning
	@touch $@

# Packages on top of the test environment, for those tests alone that put the folder on their path.
$(VENV)-stock/.ready $(VENV)-mteb/.ready: $(VENV)-%/.ready: requirements-%.txt $(VENV)/.ready-test
	rm -rf $(@D)
	$(PIP) install --quiet --no-deps --target $(@D) --requirement $<
	@touch $@
