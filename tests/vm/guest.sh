#!/bin/sh
# Runs as root in the machine of `make test-vm` after its boot, and says in TAP what held: tako-server as the service of
# systemd that we ship, two apps deployed over ssh, and one of them, `wild`, doing what the other, `calm`, must not feel.
set -u

unit=/sys/fs/cgroup/system.slice/tako-server.service
data=/opt/tako
apps=$data/apps
# For anything that is waited for: the machine is emulated, on one that may be busy.
patience=120
n=0
failed=0

# One check: a function whose every command must succeed. What it did is shown when one did not.
check() { # sentence, function
    n=$((n + 1))
    began=$(date +%s)
    (
        set -ex
        "$2"
    ) >/tmp/check.log 2>&1
    code=$?
    took="$(($(date +%s) - began))s"
    if [ "$code" = 0 ]; then
        echo "ok $n - $1 ($took)"
    else
        echo "not ok $n - $1 ($took)"
        { tail -n 40 /tmp/check.log; journalctl -q -n 20 -o cat -u tako-server --since "@$began"; } | sed 's/^/#   /'
        failed=$((failed + 1))
    fi
}

never() { # command: `!` alone does not count for `set -e`
    ! "$@"
}

within() { # seconds, command: until it succeeds; what it said last when it does not
    set +x
    end=$(($(date +%s) + $1))
    shift
    until (set -x && "$@") >/tmp/within.log 2>&1; do
        if [ "$(date +%s)" -ge "$end" ]; then
            cat /tmp/within.log
            return 1
        fi
        sleep 0.2
    done
    set -x
}

ask() { # app: its version and process; through the proxy as any client
    curl -sS --fail --max-time "$patience" -H "Host: $1.localhost" http://127.0.0.1/
}

in_app() { # app, script
    curl -sS --fail --max-time "$patience" -H "Host: $1.localhost" --data-binary "$2" http://127.0.0.1/sh
}

process_of() { # app
    answer=$(ask "$1") && echo "${answer#* }"
}

is_another() { # app, process: another one answers now
    now=$(process_of "$1") && [ -n "$now" ] && [ "$now" != "$2" ]
}

group_of() { # app: the group that its instance is in, as a folder
    echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(process_of "$1")/cgroup")"
}

counted() { # file, name: the count of that name is not zero
    [ "$(sed -n "s/^$2 //p" "$1")" -gt 0 ]
}

is_gone() { # a command line
    never pgrep -f "$1"
}

project() { # app
    mkdir -p "/root/$1"
    cp /vm/app "/root/$1/app"
    cat >"/root/$1/tako.toml" <<EOF
name = "$1"
runtime = "binary"
main = "app"

[envs.production]
route = "$1.localhost"
EOF
}

has_the_controllers() {
    [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]
    for controller in cpu memory pids; do
        grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers
    done
}

unit_is_fine() {
    [ -z "$(systemd-analyze verify tako-server.service 2>&1)" ]
}

starts() {
    systemctl enable tako-server
    systemctl start tako-server
    [ "$(systemctl show -P Type -P ActiveState tako-server | tr '\n' ' ')" = "notify active " ]
    [ "$(stat -c %a /run/tako)" = 750 ]
}

adds_the_server() {
    install -d -m 0700 /root/.ssh
    ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
    cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
    echo "127.0.0.1 $(cat /etc/ssh/ssh_host_ed25519_key.pub)" >/root/.ssh/known_hosts
    tako servers add 127.0.0.1 --name here --user root
}

deploys() {
    project calm
    project wild
    printf '\n[limits]\nmemory = "64M"\ncpu = 0.5\nprocesses = 32\n' >>/root/wild/tako.toml
    tako deploy --yes --dir /root/calm
    tako deploy --yes --dir /root/wild
    ask calm
    ask wild
    curl -sS --fail -k --resolve calm.localhost:443:127.0.0.1 https://calm.localhost/
}

limits_are_set() {
    group=$(group_of wild)
    grep -qx 67108864 "$group/memory.max"
    grep -qx '50000 100000' "$group/cpu.max"
    grep -qx 32 "$group/pids.max"
    # Nothing to tell of limits that something weaker stands in for.
    tako status --json --dir /root/wild | tee /dev/stderr | grep -q '"remarks":\[\]'
}

users_differ() {
    calm=$(in_app calm 'id -u')
    wild=$(in_app wild 'id -u')
    [ "$calm" -ge 70000 ]
    [ "$wild" -ge 70000 ]
    [ "$calm" != "$wild" ]
    [ "$(in_app wild 'grep -c -E "^Cap(Inh|Prm|Eff|Bnd|Amb):.0+$|^NoNewPrivs:.1$" /proc/self/status')" = 6 ]
}

# What works is told by its name; that its own folder is among it shows that the others could have been.
keeps_out() {
    in_app calm 'echo mine >"$TAKO_DATA_DIR/note" && cat "$TAKO_DATA_DIR/note"' | grep -qx mine
    calm=$(process_of calm)
    in_app wild "data=$data apps=$apps calm=$calm"'
        exec >"$TAKO_DATA_DIR/worked" 2>/dev/null
        # In the background, so that it answers its probes meanwhile.
        (
            try() { "$@" >/dev/null 2>&1 && echo "$*"; }
            write() { echo x >"$1"; }
            speak() { tako-server ctl </dev/null | grep -q hello; }
            try write "$TAKO_DATA_DIR/note"
            for folder in $apps/calm/shared/data $apps/calm/shared/logs $apps/calm/current; do
                try ls "$folder"
                try touch "$folder/x"
            done
            for folder in $data $data/certs $data/incoming $apps $apps/wild $apps/wild/current; do
                try touch "$folder/x"
            done
            for file in $apps/calm/shared/data/note $apps/calm/state.json $apps/wild/state.json $data/host.key; do
                try cat "$file"
                try write "$file"
            done
            try cat $apps/calm/current/app
            try write $apps/wild/current/app
            try ls $data/certs
            try cat /proc/$calm/environ
            try kill -0 $calm
            try speak
            echo tried
        ) &'
    within "$patience" grep -qx tried $apps/wild/shared/data/worked
    cat $apps/wild/shared/data/worked
    [ "$(cat $apps/wild/shared/data/worked)" = "$(printf '%s\n' "write $apps/wild/shared/data/note" tried)" ]
    # Whoever may, is answered.
    tako-server ctl </dev/null | grep -q hello
}

# Twice, so that the wait before the second start is seen to be longer.
memory_bomb() {
    server=$(systemctl show -P MainPID tako-server)
    calm=$(process_of calm)
    for _ in 1 2; do
        wild=$(process_of wild)
        group=$(group_of wild)
        never curl -sS --fail --max-time "$patience" -H "Host: wild.localhost" -d '' http://127.0.0.1/eat
        [ "$(process_of calm)" = "$calm" ]
        journalctl -q -k -o cat | grep -F "oom_memcg=${group#/sys/fs/cgroup}," | grep -F ",pid=$wild,"
        within "$patience" is_another wild "$wild"
    done
    [ "$(systemctl show -P MainPID tako-server)" = "$server" ]
    counted "$unit/memory.events" oom_kill
    tako status --dir /root/wild 2>&1 | tee /dev/stderr | grep -q 'reached its memory limit'
    journalctl -q -u tako-server --since "@$began" | grep 'app=wild.*starts again delay_ms=100'
    journalctl -q -u tako-server --since "@$began" | grep 'app=wild.*starts again delay_ms=200'
}

processor_hog() {
    group=$(group_of wild)
    hogs=$(in_app wild 'for i in 1 2; do (while :; do :; done) >/dev/null 2>&1 & echo $!; done')
    within "$patience" counted "$group/cpu.stat" nr_throttled
    ask calm
    # shellcheck disable=SC2086 # a list of numbers
    kill -9 $hogs
    within "$patience" ask wild
}

fork_bomb() {
    group=$(group_of wild)
    wild=$(process_of wild)
    calm=$(process_of calm)
    in_app wild 'bomb() { bomb & bomb & sleep 4141; }; (bomb) >/dev/null 2>&1 &'
    within "$patience" counted "$group/pids.events" max
    [ "$(process_of calm)" = "$calm" ]
    kill -9 "$wild"
    within "$patience" is_another wild "$wild"
    within "$patience" is_gone 'sleep 4141'
}

daemon_dies() {
    wild=$(process_of wild)
    in_app wild 'setsid -f sleep 4242 >/dev/null 2>&1'
    within "$patience" pgrep -f 'sleep 4242'
    kill -9 "$wild"
    within "$patience" is_another wild "$wild"
    within "$patience" is_gone 'sleep 4242'
}

stops() {
    in_app calm 'setsid -f sleep 4343 >/dev/null 2>&1'
    systemctl stop tako-server
    [ "$(systemctl show -P Result tako-server)" = success ]
    [ ! -e "$unit" ]
    is_gone 'sleep 4343'
    is_gone '^[^ ]*/app$'
}

starts_again() {
    systemctl start tako-server
    within "$patience" ask calm
    within "$patience" ask wild
}

survives_a_kill() {
    server=$(systemctl show -P MainPID tako-server)
    in_app wild 'setsid -f sleep 4444 >/dev/null 2>&1'
    kill -9 "$server"
    within "$patience" is_up_anew "$server"
    within "$patience" ask calm
    within "$patience" ask wild
    within "$patience" has_no_orphan
    is_gone 'sleep 4444'
}

is_up_anew() { # the server's earlier process
    [ "$(systemctl show -P MainPID tako-server)" != "$1" ] && systemctl -q is-active tako-server
}

# As many processes of apps as instances, all of them in our groups.
has_no_orphan() {
    [ "$(pgrep -c -f '^[^ ]*/app$')" = 2 ] && for pid in $(pgrep -f '^[^ ]*/app$'); do
        grep -q '^0::/system.slice/tako-server.service/' "/proc/$pid/cgroup" || return 1
    done
}

restarts() {
    calm=$(process_of calm)
    systemctl restart tako-server
    within "$patience" is_another calm "$calm"
    within "$patience" ask wild
    has_no_orphan
}

echo "# up after $(cut -d ' ' -f 1 /proc/uptime)s: $(uname -r), $(systemctl --version | head -n 1)"
check "the machine has cgroup v2 with its controllers" has_the_controllers
check "systemd finds no fault with the unit" unit_is_fine
check "the service starts and says that it is ready" starts
check "tako adds the server over ssh" adds_the_server
check "two apps are deployed and served" deploys
if [ "$failed" != 0 ]; then
    echo "Bail out! the rest needs all of these"
    exit 1
fi
check "each app is a user of its own, without capabilities" users_differ
check "an app cannot touch another's files and processes, nor ours" keeps_out
check "the limits of tako.toml are those of the kernel" limits_are_set
check "a memory bomb is killed in its group, and its instance replaced" memory_bomb
check "a processor hog is throttled" processor_hog
check "a fork bomb ends at its limit, and with its instance" fork_bomb
check "a daemon that left its session dies with its instance" daemon_dies
check "systemctl stop leaves no process" stops
check "systemctl start brings all apps back" starts_again
check "after a kill -9 of the server all is served again, without orphans" survives_a_kill
check "systemctl restart brings all apps back" restarts
echo "# done after $(cut -d ' ' -f 1 /proc/uptime)s"
echo "1..$n"
