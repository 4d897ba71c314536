#!/bin/sh
# The root of a builder image, made of what this machine has: busybox, its C compiler, and what that needs.
#
#     sh tests/docker/image.sh DIR
set -eu
root=$1
rm -rf "$root"
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/usr"
chmod 1777 "$root/tmp"
# As on this machine: what the compiler names by `/lib` lies in `/usr/lib`.
for dir in lib lib64; do
    if [ -L "/$dir" ]; then
        mkdir -p "$root/usr/$dir"
        ln -s "usr/$dir" "$root/$dir"
    fi
done
busybox=$(command -v busybox)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$root/bin/$applet"
done
printf 'root:x:0:0::/:/bin/sh\nbuilder:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"

take() { # files, with the links that lead to them
    for file in "$@"; do
        mkdir -p "$root$(dirname "$file")"
        cp -rL "$file" "$root$file"
    done
}
libraries() { ldd "$1" | sed -n 's/.* \(\/[^ ]*\) (0x.*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (0x.*/\1/p'; }
gcc=$(readlink -f "$(command -v gcc)")
mkdir -p "$root/usr/bin"
cp "$gcc" "$root/usr/bin/cc"
for program in cc1 collect2 as ld; do
    path=$(gcc -print-prog-name=$program)
    case $path in /*) ;; *) path=$(command -v "$path") ;; esac
    take "$path"
    for library in $(libraries "$path") $(libraries "$gcc"); do take "$library"; done
done
for file in libgcc.a libgcc_eh.a crtbeginT.o crtend.o crt1.o crti.o crtn.o libc.a liblto_plugin.so include; do
    take "$(gcc -print-file-name=$file)"
done
for part in asm-generic linux "$(uname -m)-linux-gnu" arpa netinet; do take "/usr/include/$part"; done
cp /usr/include/*.h "$root/usr/include/"
