# Each target installs what it needs on Debian and Ubuntu, where Rust is there already (https://rustup.rs).

CARGO ?= cargo
ARCH := $(shell uname -m)
MUSL := $(ARCH)-unknown-linux-musl

# gcc links, and compiles a little C of ring.
COMPILER := cc=gcc,libc6-dev
# pip brings HAProxy 2.8.
HAPROXY := pip3=python3-pip

.PHONY: help demo test check bench sim soak dist

help:
	@echo 'make demo    the story of the README on a real HAProxy; ONCE=1: end after it; SLOTS=1: with slots'
	@echo 'make test    every test, on each HAProxy line that can be had; HAPROXY_LINES_REQUIRED=1: on all five'
	@echo 'make check   formatting, lints, documentation, dependencies'
	@echo 'make bench   the measurements'
	@echo 'make sim     the simulator; SEED=… replays one run, SIM_SEEDS=…, SIM_FAULTS=… and SIM_MATRIX=… say how much'
	@echo 'make soak    services live their ordinary life under load, on each HAProxy line, for SOAK_MINUTES=60; then every pair of'
	@echo '             faults on each line; FAULT=…, KIND=… and LINE=… choose of them'
	@echo 'make dist    the static binary'

demo:
	@scripts/need $(COMPILER) $(HAPROXY)
	$(CARGO) build --locked --bin haproxy-nomad-sidecar --examples
	@scripts/with-haproxy --newest $(CARGO) run --locked --quiet --example demo -- $(if $(filter 1,$(ONCE)),--once) $(if $(filter 1,$(SLOTS)),--slots)

test:
	@scripts/need $(COMPILER) $(HAPROXY)
	scripts/with-haproxy $(CARGO) test --locked

check:
	@scripts/need $(COMPILER)
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check bans licenses sources; \
	else echo 'NOT CHECKED: the rules of deny.toml, since there is no cargo-deny (cargo install cargo-deny)'; fi

bench:
	@scripts/need $(COMPILER) $(HAPROXY) promtool=prometheus
	scripts/with-haproxy $(CARGO) bench --locked --bench sync --bench size --bench gap

# So many seeds of the whole, so many faults of Nomad, and so many of all three and of pairs of them; variables given to
# make are in the environment of what it runs. One test after the other, since some use all cores.
sim: export SIM_SEEDS ?= 300
sim: export SIM_FAULTS ?= 200000
sim: export SIM_MATRIX ?= 500000
sim:
	@scripts/need $(COMPILER)
	$(CARGO) test --locked --release --test sim -- --nocapture --test-threads 1

# The days that `make test` plays once, again and again with other seeds; and the whole fault matrix, with faults that last
# as long as they do in life.
soak: export SOAK_MINUTES ?= 60
soak:
	@scripts/need $(COMPILER) $(HAPROXY)
	scripts/with-haproxy $(CARGO) test --locked --test load costs_no_request -- --nocapture
	FAULTS_FULL=1 scripts/with-haproxy $(CARGO) test --locked --test faults -- --nocapture

dist:
	@scripts/need $(COMPILER)
	rustup target add $(MUSL)
	CC_$(ARCH)_unknown_linux_musl=cc $(CARGO) build --locked --release --target $(MUSL)
	@ls -lh $${CARGO_TARGET_DIR:-target}/$(MUSL)/release/haproxy-nomad-sidecar
