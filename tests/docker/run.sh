#!/bin/sh
# Container builds with a real Docker engine, our own: `make test-docker`. As root; what it needs is installed by apt, and
# where no engine can run it says why and is skipped.
#
#     sh tests/docker/run.sh target/debug
set -eu
cd "$(dirname "$0")/../.."
PATH=$(cd "$1" && pwd):$PATH
here=$PWD/tests/docker
work=$PWD/target/docker
# What a single wait may take on a busy machine.
limit=120

say() { echo "test-docker: $*" >&2; }
skip() { say "skipped: $*"; exit 0; }

[ "$(id -u)" = 0 ] || skip "an engine of our own needs root"
missing=""
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need dockerd docker.io
need docker docker.io
need busybox busybox-static
need gcc gcc
need curl curl
need setpriv util-linux
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || skip "these packages are not installed:$missing"
    say "installing:$missing"
    apt-get update -q >/dev/null 2>&1 || true # the next line says it
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
        skip "these packages cannot be installed:$missing"
fi

mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || { say "another one is running"; exit 1; }
rm -rf "$work/data"
# Sockets have short names, apps lie in no repository, and one of the checks is somebody else.
run=$(mktemp -d /tmp/tako-docker.XXXXXX)
chmod 755 "$run"
engine="" pid=""
finish() {
    status=$?
    trap '' INT TERM
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    [ -z "$engine" ] || { kill "$engine" 2>/dev/null && wait "$engine"; } || true
    rm -rf "$run" "$work/data" "$work/root"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# No network, and nothing of the machine's is touched: neither its firewall nor its own engine.
unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_HOST="unix://$run/sock" DOCKER_CONFIG="$run/config" TAKO_HOME="$run/home"
PATH=$PATH:/usr/sbin setpriv --pdeathsig TERM dockerd --host "$DOCKER_HOST" --data-root "$work/data" \
    --exec-root "$run/exec" --pidfile "$run/pid" --bridge none --iptables=false --ip6tables=false \
    >"$work/dockerd.log" 2>&1 9>&- &
engine=$!
start=$(date +%s)
until docker version >/dev/null 2>&1; do
    kill -0 "$engine" 2>/dev/null || skip "dockerd does not run here: $(tail -n 1 "$work/dockerd.log")"
    [ $(($(date +%s) - start)) -lt $limit ] || skip "dockerd does not answer: $(tail -n 1 "$work/dockerd.log")"
    sleep 0.1
done
sh "$here/image.sh" "$work/root"
tar -C "$work/root" -c . | docker import - tako-test:v1 >/dev/null
trial=$(docker run --rm tako-test:v1 /bin/sh -c 'echo runs' 2>&1) || true # the next line says it
[ "$trial" = runs ] || skip "no container runs here: $trial"

passed=0
ok() { passed=$((passed + 1)); echo "ok $passed - $*"; }
fail() {
    echo "not ok - $*"
    sed 's/^/    /' "$work/out" 2>/dev/null || true
    exit 1
}
# Runs tako in an app's folder; what it says is in $work/out.
tako_in() { # app, arguments
    dir=$run/apps/$1
    shift
    set +e
    tako "$@" --dir "$dir" --verbose >"$work/out" 2>&1 9>&-
    code=$?
    set -e
}
ended() { [ "$code" = "$1" ] || fail "$2: exit code $code instead of $1"; }
says() { grep -qF -- "$1" "$work/out" || fail "it does not say: $1"; }
none_left() { [ -z "$(docker ps --all --quiet)" ] || fail "$1: containers are left: $(docker ps --all)"; }
until_so() { # what, command
    what=$1
    shift
    begun=$(date +%s)
    until "$@" >/dev/null 2>&1; do
        [ $(($(date +%s) - begun)) -lt $limit ] || fail "$what did not happen within ${limit}s"
        [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null || fail "$what did not happen: tako ended before"
        sleep 0.05
    done
}
app() { # name, lines of [build]
    mkdir -p "$run/apps/$1"
    printf 'name = "%s"\nruntime = "binary"\nmain = "bin/app"\n\n[build]\n%s\n' "$1" "$2" >"$run/apps/$1/tako.toml"
    cp "$here/app.c" "$run/apps/$1/"
}

# A PATH without docker.
bin=$run/bin
mkdir -p "$bin"
for program in tako tako-server; do ln -s "$(command -v $program)" "$bin/"; done

# 1. A C program for two targets, each built in a container of its own, served by a rehearsal.
two='targets = ["linux-x86_64-musl", "linux-x86_64-glibc"]'
case $(uname -m) in aarch64) two='targets = ["linux-aarch64-musl", "linux-aarch64-glibc"]' ;; esac
native=$(printf '%s' "$two" | sed 's/.*"\(.*\)".*/\1/')
# shellcheck disable=SC2016 # for the shell in the container
steps='test ! -e /been-here && touch /been-here
mkdir -p bin && cc -static -O1 -DTARGET="\"$TAKO_TARGET\"" -o bin/app app.c && ln -f bin/app bin/same
echo "$TAKO_TARGET" >>$CARGO_HOME/builds && wc -l <$CARGO_HOME/builds >bin/builds
env >bin/env; id -u >bin/id; ls -a >bin/ls; cp /proc/mounts bin/mounts'
app two "$two
image = \"tako-test:v1\"
build = '''
$steps
'''"
echo "SECRET_IN_FILE=1" >"$run/apps/two/.env"
mkdir -p "$run/apps/two/node_modules/x"
export SECRET_OF_MINE=1
tako rehearse --keep --dir "$run/apps/two" >"$work/out" 2>&1 9>&- &
pid=$!
until_so "the rehearsal" grep -q "serving until" "$work/out"
says "build ok $(printf '%s' "$two" | sed 's/.*\["//; s/", "/, /; s/"\].*//')"
url=$(grep -o 'https://[^ ]*' "$work/out" | head -n 1)
host=$(printf '%s' "$url" | sed 's|https://\([^/]*\).*|\1|')
[ "$(curl -sk --resolve "$host:127.0.0.1" "$url")" = "$native" ] || fail "the app does not say it is for $native"
kill -INT "$pid"
wait "$pid" || true
pid=""
tree=$run/apps/two/.tako/build
[ "$(find "$run/apps/two/.tako/artifacts" -name 'artifact-cache-*.tar.zst' | wc -l)" = 2 ] || fail "there are not two artifacts"
none_left "two builds"
ok "a C program is built for two targets, each in a fresh container, and its page is served"
grep -q "^TAKO_BUILD=nogit_" "$tree/bin/env" || fail "a build does not know its version"
! grep -q "SECRET" "$tree/bin/env" || fail "a variable of ours is in the container"
! grep -q "node_modules\|\.env" "$tree/bin/ls" || fail "files of this machine are in the container"
! grep -qF "$run/apps" "$tree/bin/mounts" || fail "a folder of this machine is mounted"
ok "neither variables nor packages nor secrets of this machine are in the container"

# 2. The cache: of artifacts, then of packages.
PATH=$bin tako_in two rehearse
ended 0 "a rehearsal with nothing changed"
says "nothing changed"
ok "with nothing changed Docker need not even be there"
tako_in two rehearse
ended 0 "a rehearsal with nothing changed, and Docker"
says "nothing changed"
ok "with nothing changed nothing is built while the image is the same"
[ "$(cat "$tree/bin/builds")" = 1 ] || fail "the first build for a target found something in its cache"
echo "/* changed */" >>"$run/apps/two/app.c"
tako_in two rehearse
ended 0 "the second build"
[ "$(cat "$tree/bin/builds")" = 2 ] || fail "the cache volume did not outlive its container"
volumes=$(docker volume ls --quiet | sort)
[ "$(printf '%s\n' "$volumes" | grep -c '^tako-build-cache-cargo-')" = 2 ] || fail "no volume per target: $volumes"
! printf '%s\n' "$volumes" | grep -v '^tako-build-cache-' >/dev/null || fail "other volumes are left: $volumes"
none_left "the second build"
ok "containers are fresh, and what they cached is there again: a volume for each kind and target"
c=$(docker create tako-test:v1 true)
docker tag tako-test:v1 tako-test:before
docker commit --change 'ENV MOVED=1' "$c" tako-test:v1 >/dev/null
docker rm "$c" >/dev/null
tako_in two rehearse
ended 0 "a build with a tag that was moved"
says "another one than last time"
grep -q "^MOVED=1" "$tree/bin/env" || fail "the build did not run in the image that the tag is now"
[ "$(cat "$tree/bin/builds")" = 3 ] || fail "not both targets were built again"
tako_in two rehearse
says "nothing changed"
docker tag tako-test:before tako-test:v1
docker rmi tako-test:before >/dev/null
ok "after a tag was moved both targets are built again, once"

# 3. An image with a user of its own.
c=$(docker create tako-test:v1 true)
docker commit --change 'USER builder' "$c" tako-test:user >/dev/null
docker rm "$c" >/dev/null
app user "container = true
image = \"tako-test:user\"
build = '''
$steps
'''"
tako_in user rehearse
ended 0 "a build as the image's user"
[ "$(cat "$run/apps/user/.tako/build/bin/id")" = 1000 ] || fail "the build did not run as the image's user"
ok "a build runs as the user that its image names"

# 4. Failures leave nothing, and say why.
app broken "container = true
image = \"tako-test:v1\"
build = 'i=0; while [ \$i -lt 60 ]; do echo line \$i; i=\$((i+1)); done; echo the last words >&2; exit 7'"
tako_in broken rehearse
ended 8 "a build that fails"
says "ended with exit code 7"
says "the last words"
none_left "a build that failed"
ok "a command that fails is told with its exit code and last lines, and its container is gone"
app leads-out "container = true
image = \"tako-test:v1\"
build = 'mkdir bin; touch bin/app; ln -s /etc/shadow bin/shadow'"
tako_in leads-out rehearse
[ "$code" != 0 ] || fail "a link to /etc/shadow was taken"
says "bin/shadow"
[ ! -L "$run/apps/leads-out/.tako/build/bin/shadow" ] || fail "the link was made here"
none_left "a hostile build"
ok "a link that leads out of the tree is refused by name"
app elsewhere "targets = [\"$(printf '%s' "$two" | sed 's/.*\["\([^"]*\)".*/\1/')\"]
image = \"tako-test:v1\"
build = 'sleep 600'"
tako_in elsewhere rehearse
ended 3 "a server of another target"
says "$native"
says "targets = ["
none_left "a build that was given up"
ok "a server that nothing is built for ends the build early and names the line to write"

# 5. Ctrl-C and kill -9 in the middle of a command.
app long "container = true
image = \"tako-test:v1\"
build = 'touch running; sleep 600'"
began() { c=$(docker ps --quiet) && [ -n "$c" ] && docker exec "$c" test -e /tako/src/running; }
gone() { [ -z "$(docker ps --all --quiet)" ]; }
start_long() {
    tako rehearse --dir "$run/apps/long" >"$work/out" 2>&1 9>&- &
    pid=$!
    until_so "the build" began
}
start_long
mounts=$(docker inspect --format '{{range .Mounts}}{{.Type}} {{end}}{{.HostConfig.Binds}} {{.HostConfig.Privileged}}' "$c")
[ "$(printf '%s' "$mounts" | sed 's/volume //g')" = "[] false" ] || fail "other things than volumes are mounted: $mounts"
label=$(docker inspect --format '{{index .Config.Labels "tako.build"}}' "$c")
ok "a running container has volumes, and nothing of this machine is mounted"
kill -INT "$pid"
code=0
wait "$pid" || code=$?
pid=""
ended 130 "an interrupted build"
none_left "an interrupted build"
ok "Ctrl-C ends with 130 and leaves no container"
start_long
kill -KILL "$pid"
wait "$pid" 2>/dev/null || true
pid=""
until_so "the end of a container whose tako was killed" gone
ok "after kill -9 the container goes by itself"
docker create --label "tako.build=$label" tako-test:v1 true >/dev/null
other=$(docker create --label "tako.build=another" tako-test:v1 true)
sed -i "s/^build = .*/build = 'exit 3'/" "$run/apps/long/tako.toml"
tako_in long rehearse
ended 8 "a build after one that was killed"
[ "$(docker ps --all --quiet --no-trunc)" = "$other" ] || fail "what was left was not swept, or too much was"
docker rm "$other" >/dev/null
ok "the next build of the project removes what was left, and nothing of others"

# 6. Docker itself.
app plain "container = true
image = \"tako-test:v1\"
build = 'true'"
PATH=$bin tako_in plain rehearse
ended 8 "a build without docker"
says "on the PATH"
ok "without docker the message names it and the way around it"
DOCKER_HOST=unix:///nowhere tako_in plain rehearse
ended 8 "a build without an engine"
says "the Docker engine does not answer"
ok "an engine that does not run is told"
sed -i 's|tako-test:v1|registry.invalid/nobody/builder:v1|' "$run/apps/plain/tako.toml"
tako_in plain rehearse
ended 8 "a build with an image that is nowhere"
says "the image registry.invalid/nobody/builder:v1 is not here, and cannot be pulled"
ok "an image that cannot be pulled is named"
# A root whose shell is for a processor that nobody has here, even with emulation: none (EM_NONE).
rm -rf "$work/root"
mkdir -p "$work/root/bin"
cp "$(command -v busybox)" "$work/root/bin/sh"
printf '\0\0' | dd of="$work/root/bin/sh" bs=1 seek=18 conv=notrunc 2>/dev/null
tar -C "$work/root" -c . | docker import - tako-test:foreign >/dev/null
sed -i 's|registry.invalid/nobody/builder:v1|tako-test:foreign|' "$run/apps/plain/tako.toml"
tako_in plain rehearse
ended 8 "a build for a foreign processor"
says "this machine cannot run programs for linux/"
none_left "a container that did not start"
ok "an image for another processor says that it cannot run here"
rm "$work/root/bin/sh"
touch "$work/root/bin/no-shell"
tar -C "$work/root" -c . | docker import - tako-test:empty >/dev/null
sed -i 's|tako-test:foreign|tako-test:empty|' "$run/apps/plain/tako.toml"
tako_in plain rehearse
ended 8 "a build without a shell"
says "has no /bin/sh"
ok "an image without a shell is told"
cp -R "$run/apps/plain" "$run/plain"
rm -rf "$run/plain/.tako"
chmod 600 "$run/sock"
mkdir -p "$run/programs"
for program in tako tako-server; do cp "$(command -v $program)" "$run/programs/"; done
mkdir -p "$run/home"
chown -R nobody "$run/plain" "$run/home"
code=0
setpriv --reuid nobody --clear-groups env HOME="$run/home" "$run/programs/tako" rehearse --dir "$run/plain" \
    >"$work/out" 2>&1 9>&- || code=$?
ended 8 "a build by somebody who may not use the engine"
says "you may not use the Docker engine"
ok "who may not use the engine is told how to"

say "all $passed checks passed"
