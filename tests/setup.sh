#!/bin/sh
# Makes sure that what the tests run is there: as root with apt it is installed, else it is named and we stop.
set -eu

missing=""
optional=""
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need cc gcc
need setpriv util-linux
need ip iproute2
need git git
need ssh openssh-client
need sshd openssh-server
need node nodejs
need npm npm
need tmux tmux
python3 -c 'import ensurepip, venv' 2>/dev/null || optional="python3-venv"

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

if [ -n "$optional" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing: $optional"
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$optional" >/dev/null || true # said below
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

# Package managers and mise, pinned, for the same; the two Yarns have one name, so that the later one lives apart.
npm_tool() { # folder, package, version
    if ! grep -qs "\"version\": \"$3\"" "$1/node_modules/$2/package.json"; then
        mkdir -p "$1"
        log="$tools/$(basename "$2").log"
        if ! npm install --prefix "$1" --no-audit --no-fund --silent "$2@$3" >"$log" 2>&1; then
            echo "note: $2 could not be installed by npm, its tests will be skipped (see $log)"
        fi
    fi
}
npm_tool "$tools" pnpm 9.15.9
npm_tool "$tools" yarn 1.22.22
npm_tool "$tools/berry" @yarnpkg/cli-dist 4.18.1
npm_tool "$tools" @jdxcode/mise 2026.9.15

# The peers of the WebSocket matrix, `ws` and Python's `websockets`, pinned; without one its tests are skipped too.
mkdir -p "$tools"
ws=8.18.3
if ! grep -qs "\"version\": \"$ws\"" "$tools/node_modules/ws/package.json"; then
    if ! npm install --prefix "$tools" --no-audit --no-fund --silent "ws@$ws" >"$tools/ws.log" 2>&1; then
        echo "note: ws could not be installed by npm, its tests will be skipped (see $tools/ws.log)"
    fi
fi
websockets=15.0.1
if ! "$tools/python/bin/python" -c "import websockets as w; assert w.__version__ == '$websockets'" 2>/dev/null; then
    if ! { python3 -m venv "$tools/python" && "$tools/python/bin/pip" install -q "websockets==$websockets"; } \
        >"$tools/python.log" 2>&1; then
        echo "note: websockets could not be installed by pip, its tests will be skipped (see $tools/python.log)"
    fi
fi

# The same for slowhttptest, which attacks the proxy in `make attack`.
if ! command -v slowhttptest >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! { apt-get update -q && apt-get install -y -q --no-install-recommends slowhttptest; } >/dev/null 2>&1; then
        echo "note: slowhttptest is not installed (apt-get install slowhttptest), make attack will be skipped"
    fi
fi

# What `make bench` compares an upload with.
if ! command -v rsync >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! { apt-get update -q && apt-get install -y -q --no-install-recommends rsync; } >/dev/null 2>&1; then
        echo "note: rsync is not installed (apt-get install rsync), make bench will not compare with it"
    fi
fi

# A scanner of TLS, in an environment of its own; without it its test is skipped, and says so.
if ! command -v sslyze >/dev/null 2>&1 && [ ! -x "$tools/sslyze/bin/sslyze" ]; then
    mkdir -p "$tools"
    if ! { python3 -m venv "$tools/sslyze" && "$tools/sslyze/bin/pip" install --quiet "sslyze>=6.3,<7"; } \
        >"$tools/sslyze.log" 2>&1; then
        rm -rf "$tools/sslyze"
        echo "note: sslyze could not be installed by pip, its test will be skipped (see $tools/sslyze.log)"
    fi
fi
