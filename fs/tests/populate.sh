#!/bin/sh
# Fill an XFS file system with one of everything, and write down what is there.
# Runs in a Linux guest (busybox sh, xfs_io, setfattr, getfattr), as root.
#
#   populate.sh fill DIR [small]     make the files; "small" for a file system below 100 MB
#   populate.sh manifest DIR OUT     write OUT/stat, sums, links, xattrs, extents, flags
#   populate.sh job DEVICE OUTDEVICE [small]
#                                    mount, fill, unmount, mount read-only, manifest,
#                                    and a tar archive of that to OUTDEVICE
#
# Records of the manifests end in byte 1 and a newline; names never contain byte 1.
set -eu

io() { f=$1; shift; xfs_io -f "$@" "$f" > /dev/null; }

# numbered names: seq_names PREFIX FROM TO
seq_names() { awk -v p="$1" -v a="$2" -v b="$3" 'BEGIN { for (i = a; i <= b; i++) print p i }'; }
# make empty files in the current directory
make_names() { seq_names "$@" | xargs touch; }
# a string of N times a character
repeat() { awk -v n="$1" -v c="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s", c }'; }

fill_directories() {
    mkdir sf0 sf1 sf9 block leaf node holes deep longnames
    (cd sf1; make_names one 1 1)
    (cd sf9; make_names n 1 9; mkdir sub; ln -s n1 link; mkfifo pipe)
    (cd block; make_names entry- 1 60)
    (cd leaf; make_names entry- 1 "$leaf_names")
    (cd node; make_names some-longer-entry-name- 1 "$node_names")
    (cd longnames; pad=$(repeat 240 x); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        : > "$pad$i"; done)
    # Most names removed again: stale index entries, holes among the data blocks.
    (cd holes
     make_names a-name-of-some-length- 1 "$node_names"
     seq_names a-name-of-some-length- 20 $((node_names - 20)) | xargs rm
     make_names late- 1 5)
    (cd deep; i=0; while [ $i -lt 60 ]; do mkdir d$i; cd d$i; i=$((i + 1)); done; echo bottom > file)
}

fill_names() {
    mkdir names; cd names
    : > ' leading blank'; : > 'trailing blank '; : > '-rf'; : > '*?[a-z]'; : > 'back\slash'
    : > "$(printf 'new\nline')"; : > "$(printf 'tab\tbell\007')"; : > "$(printf '\377\376 no utf-8')"
    : > 'grüße-日本語-🦀'; : > "quote'double\"\$dollar"; : > ...; : > .hidden
    : > "$(repeat 255 n)"; mkdir "$(repeat 254 d)"; : > a; : > 'CASE'; : > 'case'
    cd ..
}

fill_files() {
    mkdir files; cd files
    : > empty; printf x > one
    for n in 511 512 513 1023 1024 1025 4095 4096 4097 65536 65537; do
        io size-$n -c "pwrite -S 0x$((n % 90 + 10)) 0 $n"
    done
    io big -c "pwrite -S 0xb1 -b 1m 0 ${big_mb}m"
    io holes -c 'pwrite -S 0x11 0 4096' -c 'pwrite -S 0x22 65536 5000' -c 'pwrite -S 0x33 1m 1' -c 'truncate 2m'
    io all-hole -c 'truncate 10m'
    io far -c 'pwrite -S 0x44 1099511627776 100'
    io unwritten -c 'falloc 0 256k' -c 'pwrite -S 0x55 64k 16k' -c 'pwrite -S 0x66 130000 100'
    io beyond-eof -c 'falloc -k 0 512k' -c 'pwrite -S 0x77 0 1000'
    io zeroed -c 'pwrite -S 0x88 0 256k' -c 'fsync' -c 'fzero 32k 64k'
    # Every other block gone: as many extents as that makes.
    io many-extents -c "pwrite -S 0x99 0 $((many_extents * 8))k" -c fsync
    awk -v n="$many_extents" 'BEGIN { for (i = 0; i < n; i++) print "fpunch " i * 8 "k 4k" }' | xfs_io many-extents > /dev/null 2>&1
    io few-extents -c 'pwrite -S 0x9a 0 96k' -c fsync
    awk 'BEGIN { for (i = 0; i < 6; i++) print "fpunch " i * 16 "k 8k" }' | xfs_io few-extents > /dev/null 2>&1
    io hinted -c 'extsize 64k' -c 'pwrite -S 0x12 0 5000'
    cd ..
}

fill_shared() {
    io files/origin -c 'pwrite -S 0xa1 0 1m' -c fsync
    mkdir shared; cd shared
    if ! xfs_io -f -c 'reflink ../files/origin' clone > /dev/null 2>&1 || [ "$(stat -c %s clone)" = 0 ]; then
        rm -f clone; cd ..; return 0
    fi
    io clone-part -c 'pwrite -S 0xa2 0 256k' -c 'reflink ../files/origin 64k 128k 64k'
    io clone-changed -c 'reflink ../files/origin' -c 'pwrite -S 0xa3 100000 3000' -c fsync
    i=1; while [ $i -le 20 ]; do
        io many-$i -c "reflink ../files/origin $((i * 16))k 0 $((i * 8))k"; i=$((i + 1)); done
    io pieces -c 'truncate 1m'
    awk 'BEGIN { for (i = 0; i < 60; i++) print "reflink ../files/origin " (i * 37 % 250) * 4 "k " i * 16 "k 4k" }' | xfs_io pieces > /dev/null 2>&1
    cd ..
}

fill_links() {
    mkdir links; cd links
    ln -s target short; ln -s / root; ln -s "$(repeat 100 'l/')" l200
    for n in 330 336 337 400 512 900 1023; do ln -s "$(repeat $n t)" len-$n; done
    ln -s "$(printf 'odd\nname\377')" odd
    echo shared > hard1; ln hard1 hard2; ln hard1 ../hard3
    mkfifo fifo; mknod char c 5 1; mknod block b 259 100000; mknod bigchar c 300 200000
    cd ..
}

fill_attributes() {
    mkdir attrs; cd attrs
    : > none
    : > sf; setfattr -n user.a -v 1 sf; setfattr -n trusted.b -v two sf; setfattr -n security.c -v 3 sf
    : > empty-value; setfattr -n user.empty empty-value
    : > binary; setfattr -n user.bytes -v 0x000102ff00fe0a binary
    : > long-name; setfattr -n "user.$(repeat 250 n)" -v v long-name
    : > leaf; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do setfattr -n user.leaf$i -v "$(repeat 60 $i)" leaf; done
    : > node; i=0; while [ $i -lt 150 ]; do setfattr -n user.attribute-$i -v "$(repeat 90 v)$i" node; i=$((i + 1)); done
    : > removed; i=0; while [ $i -lt 60 ]; do setfattr -n user.r$i -v "$(repeat 90 v)$i" removed; i=$((i + 1)); done
    i=0; while [ $i -lt 57 ]; do setfattr -x user.r$i removed; i=$((i + 1)); done
    : > remote; for n in 3000 4000 4041 8000 16000 30000; do setfattr -n user.v$n -v "0x$(repeat $n "$((n % 89 + 10))")" remote; done
    setfattr -n trusted.remote -v "0x$(repeat 5000 a5)" remote
    mkdir dir; setfattr -n user.on-dir -v yes dir
    ln -s nowhere symlink; setfattr -h -n trusted.on-link -v yes symlink
    : > acl; setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff acl
    setfattr -n system.posix_acl_default -v 0x0200000001000700ffffffff04000500ffffffff08000700dc05000010000700ffffffff20000500ffffffff dir
    i=0; while [ $i -lt 40 ]; do ln -s "$(repeat 300 s)$i" l$i; setfattr -h -n trusted.x -v "$(repeat 150 y)" l$i; i=$((i + 1)); done
    cd ..
}

fill_metadata() {
    mkdir meta; cd meta
    : > old; touch -h -d '1960-05-04 03:02:01' old
    : > epoch; touch -d '1970-01-01 00:00:00' epoch
    : > late; touch -d '2100-01-02 03:04:05' late 2> /dev/null || true
    : > modes; chmod 7751 modes; : > owner; chown 1234:567890 owner; : > nobody; chown 65534:65534 nobody
    : > immutable; xfs_io -c 'chattr +i' immutable; : > append; xfs_io -c 'chattr +adS' append
    mkdir inherits; xfs_io -c 'chattr +P' -c 'chproj 77777' inherits; : > inherits/child
    mkdir sticky; chmod 1777 sticky
    cd ..
}

fill() {
    cd "$1"
    leaf_names=500 node_names=6000 big_mb=24 many_extents=3000
    if [ "${2:-}" = small ]; then leaf_names=150 node_names=700 big_mb=2 many_extents=300; fi
    fill_directories; fill_names; fill_files; fill_shared; fill_links; fill_attributes; fill_metadata
    sync
}

manifest() {
    mkdir -p "$2"; out=$(cd "$2" && pwd); cd "$1"
    end=$(printf '\001')
    find . -print0 | xargs -0 stat -c "%i %f %h %u %g %s %b %t %T %X %Y %Z %n$end" > "$out/stat"
    find . -type f -size -1000000 -print0 | xargs -0 sha256sum > "$out/sums"
    find . -type l | while IFS= read -r l; do
        [ -L "$l" ] && { printf '%s' "$l"; printf '\002'; readlink -n "$l"; printf '\001\n'; }; done > "$out/links" || true
    getfattr -R -h -P -d -m - -e hex . > "$out/xattrs" 2> /dev/null || true
    for f in $(find files shared -type f 2> /dev/null); do
        echo "file $f"; xfs_io -r -c 'fiemap -v' "$f" | tail -n +3; done > "$out/extents"
    for f in meta/* meta/inherits/child files/hinted; do
        echo "file $f"; xfs_io -r -c stat "$f" | grep -E 'fsxattr'; done > "$out/flags"
    stat -f -c '%b %s %c' . > "$out/statfs"
}

case $1 in
fill) fill "$2" "${3:-}" ;;
manifest) manifest "$2" "$3" ;;
job)
    rm -rf /tmp/manifest; mkdir -p /mnt /tmp/manifest
    mount -t xfs "$2" /mnt; (fill /mnt "${4:-}"); umount /mnt
    mount -t xfs -o ro,norecovery "$2" /mnt; (manifest /mnt /tmp/manifest); umount /mnt
    tar -c -f - -C /tmp/manifest . > "$3" ;;
*) echo "populate.sh: what is $1?" >&2; exit 2 ;;
esac
