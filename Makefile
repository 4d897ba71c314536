# Two of these do everything on a fresh machine: `make demo` and `make test`.
.POSIX:
.PHONY: build test lint bench demo install ci setup

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

# The same build as the tests use: a fresh machine compiles once for both.
demo:
	$(CARGO) build --locked
	@sh examples/demo.sh target/debug/tako

install: build
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 0755 target/release/tako target/release/tako-server "$(DESTDIR)$(PREFIX)/bin/"

ci: lint test
