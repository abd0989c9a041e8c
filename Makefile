# Verbs of ngxstream. Needs python3 (3.11 or newer) with its venv module, and make; everything else is
# installed into .venv, once: the second call of a verb is quick.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Where `make install` puts the program, and where it looks for its configuration, its logs and its pid
# file from then on; DESTDIR is put before all of them while files are written.
PREFIX  ?= /usr/local
SYSCONF ?= /etc
LOGS    ?= /var/log/ngxstream
PID     ?= /run/ngxstream.pid
DESTDIR ?=
# The folder that crossplane is installed in, if not $(VENV); the Debian package brings its own.
CROSSPLANE ?=
# Where `make dist` and `make deb` put packages, and the version of the latter.
DIST ?= dist
DEB_VERSION ?=
# Words for pytest: make test ARGS="-k reload -x"; a single process then
ARGS   ?=
# How many configurations `make differential` makes, and how many scenarios it runs.
COUNT  ?= 5000
RUNS   ?= 300
# The folder that `make run` writes to.
RUN    ?= run

# Which Debian `make fresh` installs: bookworm (12) or trixie (13); FULL=1 adds the programs that tests use
RELEASE ?= trixie
FULL    ?=

.PHONY: help run test fresh check differential fuzz bench docs install uninstall dist deb clean
.DELETE_ON_ERROR:

help:
	@echo "make run      serve conf/quickstart.conf in the foreground on 127.0.0.1:5300, TCP and UDP"
	@echo "make test     run the tests, several processes at once (ARGS= for pytest: one process)"
	@echo "make fresh    make run and make test on a Debian that was just installed (RELEASE=, as root)"
	@echo "make check    lint, types and the structure of the source"
	@echo "make differential  generated configurations and running scenarios, on nginx and on ours"
	@echo "make fuzz     run the property tests with many more examples"
	@echo "make bench    measure, beside nginx where it is installed"
	@echo "make docs     print the generated pages of docs/ anew"
	@echo "make install  install into PREFIX ($(PREFIX)), with a first configuration; knows DESTDIR"
	@echo "make uninstall  remove what make install has made"
	@echo "make dist     a wheel and an sdist, in $(DIST)"
	@echo "make deb      a Debian package, in $(DIST)"
	@echo "make clean    remove everything made by these verbs"

# A stamp is written when all that it stands for was installed.
$(VENV)/run.stamp: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

$(VENV)/dist.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dist]'
	@touch $@

run: $(VENV)/run.stamp
	@mkdir -p $(RUN)/logs
	@cat conf/quickstart.txt
	@exec $(BIN)/ngxstream -p $(CURDIR)/$(RUN) -e logs/error.log -c $(CURDIR)/conf/quickstart.conf

test: $(VENV)/test.stamp
	$(BIN)/python -m tests $(ARGS)

fresh:
	@FULL='$(FULL)' ARGS='$(ARGS)' .ci/fresh $(RELEASE)

check: $(VENV)/dev.stamp
	$(BIN)/python -m ruff check --config tests/structure/ruff.toml ngxstream tests
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/structure

fuzz: $(VENV)/test.stamp
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q tests/fuzz tests/unit $(ARGS)

differential: $(VENV)/test.stamp
	NGXSTREAM_GENERATED=$(COUNT) NGXSTREAM_SCENARIOS=$(RUNS) $(BIN)/python -m pytest -q -rP \
		tests/differential/test_generated.py tests/differential/test_scenarios.py $(ARGS)

bench: $(VENV)/test.stamp
	$(BIN)/python -m tests.bench $(ARGS)

docs: $(VENV)/run.stamp
	$(BIN)/python -m tests.docs $(ARGS)

# The venv is needed for its crossplane alone.
LAY_OUT = --destdir '$(DESTDIR)' --prefix '$(PREFIX)' --sysconf '$(SYSCONF)' --logs '$(LOGS)' \
	--pid '$(PID)' $(LAYOUT)
install: $(if $(CROSSPLANE),,$(VENV)/run.stamp)
	$(PYTHON) conf/packaging/lay_out.py install $(LAY_OUT) --crossplane \
		"$(or $(CROSSPLANE),$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'))"

uninstall:
	$(PYTHON) conf/packaging/lay_out.py uninstall $(LAY_OUT)

dist: $(VENV)/dist.stamp
	$(BIN)/python -m build --no-isolation --outdir '$(DIST)'

deb: $(VENV)/run.stamp
	@PYTHON='$(BIN)/python' VERSION='$(DEB_VERSION)' conf/packaging/build-deb '$(DIST)'

clean:
	rm -rf $(VENV) $(RUN) build $(DIST) *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find ngxstream tests -name __pycache__ -type d -prune -exec rm -rf {} +
