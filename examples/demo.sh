#!/bin/sh
# The main job on one machine: a private tako-server, a real app, a second version under traffic.
set -eu
tako=$1
here=$(dirname "$0")

if command -v bun >/dev/null 2>&1 || command -v node >/dev/null 2>&1; then
    app=$here/hello
else
    echo "No JavaScript runtime (bun or node) is installed here, so the demo deploys a compiled program instead."
    app=$here/hello-binary
fi

keep=""
if [ -t 0 ] && [ -t 1 ]; then
    keep=--keep
fi
exec "$tako" rehearse --traffic $keep --dir "$app"
