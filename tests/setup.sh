#!/bin/sh
# Makes sure that what the tests run is there: as root with apt it is installed, else it is named and we stop.
set -eu

missing=""
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need cc gcc
need git git
need ssh openssh-client
need sshd openssh-server
need node nodejs
need npm npm

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing:$missing"
        apt-get update -q >/dev/null
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
    else
        echo "The tests need these packages:$missing" >&2
        echo "Install them, for example: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

# Bun and Deno come as npm packages; without them their tests are skipped, and say so.
tools=target/tools
for tool in bun deno; do
    if ! command -v "$tool" >/dev/null 2>&1 && [ ! -x "$tools/node_modules/.bin/$tool" ]; then
        mkdir -p "$tools"
        if ! npm install --prefix "$tools" --no-audit --no-fund --silent "$tool" >"$tools/$tool.log" 2>&1; then
            echo "note: $tool could not be installed by npm, its tests will be skipped (see $tools/$tool.log)"
        fi
    fi
done

# The same for slowhttptest, which attacks the proxy in `make attack`.
if ! command -v slowhttptest >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! { apt-get update -q && apt-get install -y -q --no-install-recommends slowhttptest; } >/dev/null 2>&1; then
        echo "note: slowhttptest is not installed (apt-get install slowhttptest), make attack will be skipped"
    fi
fi
