#!/bin/sh
# Makes the machine of `make test-vm`, once: root.ext4, a small Debian that starts the checks, and its kernel, which has
# the drivers for both built in, so that there is neither an initramfs nor a module.
set -eu
vm=$1
suite=bookworm
mirror=http://deb.debian.org/debian
packages=systemd-sysv,openssh-server,openssh-client,procps,curl

# Made anew when this file says something else.
stamp=$(sha256sum <"$0")
if [ "$(cat "$vm/image.stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
echo "test-vm: making the image, which takes some minutes the first time" >&2
root=$vm/root
rm -rf --one-file-system "$root" "$vm/image.stamp"
debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$vm/debootstrap.log" 2>&1 || {
    tail -n 20 "$vm/debootstrap.log" >&2
    exit 1
}

# The package of the kernel is only unpacked: nothing in the machine would ever install another.
chroot "$root" sh -ec '
    cd /tmp
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: \(linux-image-.*\)/\1/p")
    apt-get -o APT::Sandbox::User=root download -q "$kernel"
    dpkg-deb --fsys-tarfile linux-image-*.deb | tar -xf - --wildcards --strip-components=2 "./boot/vmlinuz-*"
' >>"$vm/debootstrap.log" 2>&1
mv "$root"/tmp/vmlinuz-* "$vm/vmlinuz"

cat >"$root/etc/systemd/system/vm.target" <<'EOF'
[Unit]
Requires=basic.target
After=basic.target
Wants=ssh.service vm.service
EOF
cat >"$root/etc/systemd/system/vm.service" <<'EOF'
[Unit]
After=basic.target ssh.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'tar -xf /dev/nvme1n1 -C / && exec /bin/sh /vm/guest.sh'
Environment=HOME=/root
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
EOF

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/tmp/* "$root"/usr/share/doc "$root"/usr/share/man \
    "$root"/usr/share/locale
rm -f "$vm/root.ext4"
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$vm/root.ext4" 600M
rm -rf --one-file-system "$root"
echo "$stamp" >"$vm/image.stamp"
