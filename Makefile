# Two of these do everything on a fresh machine: `make demo` and `make test`.
.POSIX:
.PHONY: build test test-apps test-vm test-docker lint bench bench-proxy deploys soak attack fuzz demo install ci setup

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# Runtimes that the tests bring themselves (npm), before those of the system.
TOOLS = $(CURDIR)/target/tools/node_modules/.bin

build:
	$(CARGO) build --release --locked

# Installs what the tests need, or says what to install and stops.
setup:
	@sh tests/setup.sh

# Tests wait more than they compute: on a small machine four at a time.
THREADS = $$(getconf _NPROCESSORS_ONLN | awk '{ print $$1 < 4 ? 4 : $$1 }')
test: setup
	PATH="$(TOOLS):$$PATH" RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$(THREADS)} $(CARGO) test --locked
	PATH="$(TOOLS):$$PATH" sh tests/sdk.sh

# Real projects of a dozen frameworks, built, deployed, and deployed again under load. Their packages come from npm the
# first time and stay in target/apps. With TAKO_APPS_RUNTIME=bun or =deno those for Node run on that instead.
APPS = $(CURDIR)/target/apps/tools/node_modules/.bin
test-apps: setup
	@sh tests/apps/setup.sh
	PATH="$(APPS):$(TOOLS):$$PATH" $(CARGO) test --locked --test apps -- --test-threads 1 --nocapture

# The service under systemd, its limits and users, in an emulated Debian with cgroup v2. As root; the first run makes the
# image in target/vm, later ones take about two minutes on a machine that does nothing else.
test-vm:
	$(CARGO) build --locked
	@sh tests/vm/run.sh target/debug

# Container builds with a Docker engine of our own, started for it. As root; elsewhere it is skipped and says so.
test-docker:
	$(CARGO) build --locked
	@sh tests/docker/run.sh target/debug

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Prints tables; loopback only, a few minutes.
bench: setup
	PATH="$(TOOLS):$$PATH" $(CARGO) bench --locked --bench deploy --bench ssh --bench delta --bench upload --bench wake --bench logs --bench idle --bench deploys --bench source
	$(CARGO) bench --locked --profile quick --features lab --bench archive

# Three hundred deploys in a row under 500 requests a second: none may fail, and nothing may be left behind.
deploys:
	$(CARGO) bench --locked --bench deploys

# Our data plane beside the proxies that are installed, with the harness of $(HARNESS); prints ratios. About ten minutes on a
# machine that does nothing else.
HARNESS = ../shared/bench
bench-proxy:
	bash tests/bench/proxy.sh $(HARNESS)

# Thirty seconds of every sort of traffic while tables are published a hundred times a second; of the build that the other
# tests use, so that it costs no minutes of compiling.
soak:
	TAKO_CHURN_SECONDS=30 $(CARGO) test --locked --lib proxy::tests::churning -- --nocapture

# A real server under slowhttptest while a good client is measured; two minutes, skipped where it is not installed.
attack: setup
	PATH="$(TOOLS):$$PATH" $(CARGO) test --locked --test attack

# Seconds for each of the fuzz targets.
SECONDS = 60

# A tar is blocks of 512 bytes, with some at its end.
LENGTH = case $$target in unpack) echo 12288 ;; *) echo 2048 ;; esac

# Needs cargo-fuzz and the nightly toolchain. What is new stays in target/fuzz; what is worth keeping is brought back by
# `cargo +nightly fuzz cmin TARGET fuzz/corpus/TARGET target/fuzz/TARGET`, and `make test` reads it again from then on.
fuzz:
	for target in $$($(CARGO) fuzz list); do \
		mkdir -p target/fuzz/$$target && \
		$(CARGO) +nightly fuzz run $$target target/fuzz/$$target fuzz/corpus/$$target -- \
			-dict=fuzz/http.dict -max_len=$$($(LENGTH)) -max_total_time=$(SECONDS) || exit 1; \
	done

# The same build as the tests use: a fresh machine compiles once for both.
demo:
	$(CARGO) build --locked
	@sh examples/demo.sh target/debug/tako

install: build
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 0755 target/release/tako target/release/tako-server "$(DESTDIR)$(PREFIX)/bin/"

ci: lint test
