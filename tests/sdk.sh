#!/bin/sh
# The tests of the JavaScript SDK, on every runtime that is there.
set -eu
cd "$(dirname "$0")/.."
exec node --test sdk/javascript/test/*.mjs
