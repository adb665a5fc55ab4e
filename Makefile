# make demo   sets everything up, and shows the whole cycle on a throw-away volume
# make test   sets everything up, and runs every test; as root on Debian it installs the tools they need
# make fuzz   what comes from outside, at random, for FUZZ_SECONDS
# make soak   logs under a thousand kills and a history of many files; then the random model tests and exchanged names with
#             new seeds for SOAK_MINUTES, from SOAK_SEED on
# make bench  times snapsync beside its peers, as root; BENCH_FLAGS chooses scenes and scale
# make bench-log  times rounds through a log beside rclone and restic
# make bench-stages  times walk, compare, frame and apply by themselves
# make screenshots  takes the pictures of docs/report.md, of a made-up file server
# make man    writes the man pages into MAN_DIR
# make docs   the documentation as a site, in target/site; a link that leads nowhere fails it
# make dist   wheels, an sdist and a Debian package in dist/, as a release has them
# make lint   formatting, lints, types; whether the fuzzers compile
# make fmt    formats the sources
# make build  virtual environment and native module, as the tests need it; a release is `pip install .`
# make clean  removes what these made

PYTHON ?= python3
CARGO_FLAGS ?= --locked
# Tests are independent of each other; each worker has file systems of its own in memory. Tests wait now and then, for a
# disk or a clock: with one worker more than there are processors, these do not.
WORKERS := $(shell echo $$(($$(nproc) < 4 ? $$(nproc) + 1 : 4)))
PYTEST_FLAGS ?= --numprocesses $(WORKERS) --dist worksteal
FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 120
SOAK_SEED ?= 1000
BENCH_FLAGS ?= --page docs/benchmarks.md
MAN_DIR ?= target/man
# Which wheels `make dist` makes, as Rust names machines; if none is named, those that this machine can make.
DIST_TARGETS ?=

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
SOURCES := Cargo.toml Cargo.lock pyproject.toml \
	$(shell find rust -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)

# The interpreter that the native module is built for.
export PYO3_PYTHON := $(BIN)/python
export VIRTUAL_ENV := $(VENV)
unexport PYTHONHOME PYTHONPATH

TEST_TOOLS := btrfs-progs=mkfs.btrfs xfsprogs=mkfs.xfs e2fsprogs=mkfs.ext4 acl=setfacl attr=setfattr \
	libcap2-bin=setcap exfat-fuse=mount.exfat-fuse exfatprogs=mkfs.exfat ntfs-3g=mkfs.ntfs \
	age=age faketime=faketime openssh-server=sshd sshfs=sshfs bindfs=bindfs rsync=rsync iproute2=ip strace=strace \
	patch=patch sqlite3=sqlite3 postgresql=pg_ctlcluster man-db=man mandoc=mandoc zsh=zsh fish=fish \
	systemd=systemd-analyze systemd-container=systemd-nspawn chromium=chromium debootstrap=debootstrap \
	lintian=lintian prometheus=promtool

.PHONY: demo test fuzz soak bench bench-log bench-history bench-stages screenshots man docs dist lint fmt build optimized \
	clean test-tools
.DEFAULT_GOAL := build

demo: build
	$(BIN)/snapsync demo

test: build test-tools
	cargo test $(CARGO_FLAGS) --profile tested --workspace --exclude snapsync-benches --exclude snapsync-fuzz
	$(BIN)/pytest $(PYTEST_FLAGS) tests

fuzz:
	@scripts/need g++=c++
	scripts/fuzz $(FUZZ_SECONDS)

soak: build test-tools
	scripts/soak $(SOAK_MINUTES) $(SOAK_SEED)

# As a release has it, for what is timed: `make build` then builds again what the tests need.
optimized: $(VENV)/.tools
	PIP_QUIET=1 $(BIN)/maturin develop --release $(CARGO_FLAGS)
	rm -f $(VENV)/.built

bench: optimized
	@scripts/need $(TEST_TOOLS) tar=tar zstd=zstd
	cargo build $(CARGO_FLAGS) --release -p snapsync-benches --bin bare
	$(BIN)/python benches/bench.py $(BENCH_FLAGS)

bench-log: optimized
	@scripts/need rclone=rclone restic=restic
	$(BIN)/python benches/log.py

bench-history: optimized
	$(BIN)/python benches/history.py

bench-stages:
	cargo bench $(CARGO_FLAGS) -p snapsync-benches

screenshots: build
	@scripts/need chromium=chromium "fonts-dejavu-core=test -d /usr/share/fonts/truetype/dejavu"
	$(BIN)/python scripts/screenshots docs

man: build
	$(BIN)/python scripts/man $(MAN_DIR)

docs: $(VENV)/.docs-tools
	$(BIN)/python scripts/docs target/docs
	$(BIN)/zensical build --strict --config-file target/docs/zensical.toml
	rm -rf target/site
	mv target/docs/site target/site

dist: $(VENV)/.tools $(VENV)/.dist-tools
	@scripts/need dpkg=dpkg-deb
	PATH="$(BIN):$$PATH" scripts/dist $(DIST_TARGETS)

lint: build
	@scripts/need g++=c++
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --profile tested --workspace --exclude snapsync-fuzz --all-targets --all-features -- -D warnings
	FUZZ_FLAGS="--cfg fuzzing -Dwarnings" RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/instrumented \
		cargo check $(CARGO_FLAGS) --profile tested -p snapsync-fuzz
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml snapsync._native

fmt: $(VENV)/.tools
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(VENV)/.built

clean:
	rm -rf target dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/snapsync/_native*.so

test-tools:
	@scripts/need $(TEST_TOOLS) || { \
		[ "$$SNAPSYNC_REQUIRE_ALL" != 1 ] && echo "The tests that need these are skipped." >&2; }

$(VENV)/.tools: requirements-dev.txt
	@scripts/need "python3-venv=$(PYTHON) -c 'import ensurepip'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/.dist-tools: $(VENV)/.tools requirements-dist.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dist.txt
	touch $@

$(VENV)/.docs-tools: $(VENV)/.tools requirements-docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Python sources are used where they are: only the native module has to be built, with the places where tests can stop it,
# which a wheel is without.
$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	PIP_QUIET=1 $(BIN)/maturin develop --profile tested --features faults $(CARGO_FLAGS)
	touch $@
