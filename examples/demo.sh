#!/bin/sh
# The main job on one machine: a private tako-server, a real app, a second version under traffic.
set -eu
tako=$1
examples=$(cd "$(dirname "$0")" && pwd)

# A copy, so that nothing is left in the sources.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if command -v node >/dev/null 2>&1; then
    cp -R "$examples/hello/." "$work"
elif command -v bun >/dev/null 2>&1; then
    cp -R "$examples/hello/." "$work"
    { echo 'runtime = "bun"'; cat "$examples/hello/tako.toml"; } >"$work/tako.toml"
else
    echo "No JavaScript runtime (node or bun) is installed here, so the demo deploys a compiled program instead."
    cp -R "$examples/hello-binary/." "$work"
fi

keep=""
if [ -t 0 ] && [ -t 1 ]; then
    keep=--keep
fi
"$tako" rehearse --traffic $keep --dir "$work"
