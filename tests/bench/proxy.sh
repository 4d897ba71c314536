#!/usr/bin/env bash
# Our data plane beside the proxies that are installed: CPU and throughput in one run, memory of idle connections, and what
# noise does not touch, system calls and user-space instructions per request.
#
# usage: proxy.sh HARNESS      (PEERS, ROUNDS, SECS, IDLE_CONNS, WHAT=all|times|counts)
set -euo pipefail
harness=$(cd "${1:?the folder of the harness}" 2>/dev/null && pwd) || { echo "no harness in $1; see HARNESS in the Makefile" >&2; exit 1; }
cd "$(dirname "$0")/../.."

missing=""
for peer in haproxy nginx-light strace valgrind openssl; do
    command -v "${peer%-light}" >/dev/null 2>&1 || [ -x "/usr/sbin/${peer%-light}" ] || missing="$missing $peer"
done
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # a list of words
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
elif [ -n "$missing" ]; then
    echo "note: not installed, so not measured:$missing"
fi

build() { cargo build --release --locked --features lab --bench proxy "$@"; }
build
TAKO_PROXY=$(build --message-format=json 2>/dev/null | sed -n 's/.*"name":"proxy".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
export TAKO_PROXY TAKO_VERSION
TAKO_VERSION=$(git describe --always --dirty 2>/dev/null || true)
BENCH_TOOLS_TARGET=$PWD/target/bench-tools
export BENCH_TOOLS_TARGET

work=$PWD/target/bench-proxy
rm -rf "$work"
cp -r "$harness" "$work"
cp tests/bench/peers/*.sh "$work/peers/"
cd "$work"
peers=()
for peer in ${PEERS:-tako haproxy nginx sozu pingora caddy}; do peers+=(--peer "$peer"); done
what=${WHAT:-all}
if [ "$what" != counts ]; then
    python3 run.py "${peers[@]}" --rounds "${ROUNDS:-3}" --secs "${SECS:-2}" --out times.jsonl
    python3 run.py "${peers[@]}" --scenario idle-plain,idle-tls --rounds 1 --idle-conns "${IDLE_CONNS:-5000}" --out times.jsonl
fi
if [ "$what" != times ]; then
    python3 counts.py "${peers[@]}" --out counts.jsonl
fi
[ ! -f times.jsonl ] || python3 report.py --max-noise 0.6 times.jsonl
