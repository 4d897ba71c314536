# Two of these do everything on a fresh machine: `make demo` and `make test`.
.POSIX:
.PHONY: build test lint bench soak attack demo install ci setup

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

test: setup
	PATH="$(TOOLS):$$PATH" $(CARGO) test --locked
	PATH="$(TOOLS):$$PATH" sh tests/sdk.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Prints tables; loopback only, a few minutes.
bench: setup
	PATH="$(TOOLS):$$PATH" $(CARGO) bench --locked --bench deploy --bench wake

# Thirty seconds of every sort of traffic while tables are published a hundred times a second.
soak:
	TAKO_CHURN_SECONDS=30 $(CARGO) test --release --locked --lib proxy::tests::churning -- --nocapture
# A real server under slowhttptest while a good client is measured; two minutes, skipped where it is not installed.
attack: setup
	PATH="$(TOOLS):$$PATH" $(CARGO) test --locked --test attack

# The same build as the tests use: a fresh machine compiles once for both.
demo:
	$(CARGO) build --locked
	@sh examples/demo.sh target/debug/tako

install: build
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 0755 target/release/tako target/release/tako-server "$(DESTDIR)$(PREFIX)/bin/"

ci: lint test
