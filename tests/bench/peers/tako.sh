#!/usr/bin/env bash
# Our data plane as a peer of the side-by-side benchmark; TAKO_PROXY is the program built from tests/bench/proxy.rs.
set -eu
case $1 in
check) [ -x "${TAKO_PROXY:-}" ] || { echo "no tako (set TAKO_PROXY)"; exit 1; }; echo "tako ${TAKO_VERSION:-}" ;;
caps) echo plain tls files ;;
run)
  cd "$DIR"
  exec ${WRAP:-} "$TAKO_PROXY" "$WORKERS" "127.0.0.1:$HTTP_PORT" "127.0.0.1:$HTTPS_PORT" "$BACKEND" "$CERT" "$KEY" \
    "$DOCROOT" "127.0.0.1:$FILES_PORT" "127.0.0.1:$FILES_TLS_PORT" ;;
ready) ;;
esac
