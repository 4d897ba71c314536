#!/bin/sh
# What needs a machine of its own: a Debian with systemd and cgroup v2 in qemu, in which `guest.sh` tries a real
# tako-server. Software emulation will do, and nothing is written outside target/vm but the packages that it needs.
#
#     sh tests/vm/run.sh target/debug
#
# The root file system is made once (image.sh) and never changed; the programs come on a second disk, a plain tar.
set -eu
cd "$(dirname "$0")/../.."
bins=$1
vm=$PWD/target/vm
# A boot and all checks take a fraction of it.
limit=900

say() { echo "test-vm: $*" >&2; }

missing=""
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need qemu-system-x86_64 qemu-system-x86
need debootstrap debootstrap
need mke2fs e2fsprogs
need strip binutils
if [ "$(id -u)" != 0 ]; then
    say "the image has files of root's: run it as root"
    exit 1
elif [ -n "$missing" ]; then
    say "installing:$missing"
    apt-get update -q >/dev/null
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
fi

mkdir -p "$vm"
exec 9>"$vm/lock"
flock -n 9 || { say "another one is running"; exit 1; }
sh tests/vm/image.sh "$vm"

payload=$vm/payload
rm -rf "$payload"
mkdir -p "$payload/vm" "$payload/usr/local/bin" "$payload/etc/systemd/system"
for program in tako tako-server; do
    strip -o "$payload/usr/local/bin/$program" "$bins/$program"
done
rustc --edition 2024 -O -o "$payload/vm/app" tests/vm/app.rs
cp tests/vm/guest.sh "$payload/vm/"
cp dist/systemd/tako-server.service "$payload/etc/systemd/system/"
tar -C "$payload" --owner=0 --group=0 -cf "$vm/payload.tar" .

# Two lines to us: the first is the kernel's and systemd's, the second what the checks say. Each process of the chain is
# told when its parent ends, however it ends, so that no machine is left running.
say "booting, at most ${limit}s; the console is in $vm/console.log"
TMPDIR=$vm setpriv --pdeathsig TERM timeout -k 5 "$limit" setpriv --pdeathsig KILL \
    qemu-system-x86_64 -accel tcg,thread=multi -smp 2 -m 1024 -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$vm/vmlinuz" -append "console=ttyS0 root=/dev/nvme0n1 rw panic=-1 mitigations=off systemd.unit=vm.target" \
    -drive "id=root,if=none,format=raw,snapshot=on,file=$vm/root.ext4" -device nvme,drive=root,serial=root \
    -drive "id=tar,if=none,format=raw,readonly=on,file=$vm/payload.tar" -device nvme,drive=tar,serial=tar \
    -serial "file:$vm/console.log" -serial stdio </dev/null 9>&- | tr -d '\r' | tee "$vm/tap.log"

# Good is only what said how many checks there are, and then passed as many.
planned=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$vm/tap.log")
passed=$(grep -c '^ok ' "$vm/tap.log" || true)
if [ "${planned:-0}" -eq 0 ] || [ "$planned" != "$passed" ]; then
    say "failed: $passed of ${planned:-an unknown number of} checks passed"
    [ -s "$vm/tap.log" ] || tail -n 20 "$vm/console.log" >&2
    exit 1
fi
say "all $passed checks passed"
