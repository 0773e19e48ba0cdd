#!/bin/sh
# Work on an XFS file system and leave it in the middle, its log dirty.
# Runs in a Linux guest (busybox sh, xfs_io, setfattr), as root.
#
#   dirty.sh leave KIND DEVICE   mount, work, stop
#   dirty.sh recover DEVICE...   mount and unmount each
#
# Kinds: all       creates, removes, renames, truncates, clones, attributes, links
#        behind    as all, and some changes that never got to the log
#        open      as all, and files without a name that are open at the end
#        busy      as all, and long operations under way at the end
#        round     as all, and so many small files that the log goes round
#        shared    copy on write, with many checkpoints while it is under way
#        swapped   two fragmented files whose contents were swapped
set -u

io() { f=$1; shift; xfs_io -f "$@" "$f" > /dev/null 2>&1; }
# numbered names: names PREFIX FROM TO
names() { awk -v p="$1" -v a="$2" -v b="$3" 'BEGIN { for (i = a; i <= b; i++) print p i }'; }
# a string of N times a character
repeat() { awk -v n="$1" -v c="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s", c }'; }
# commands for xfs_io: each COUNT FORMAT-IN-AWK
each() { awk -v n="$1" "BEGIN { for (i = 0; i < n; i++) print $2 }"; }

fragmented() {
    io "$1" -c 'pwrite -S 0x32 0 1200k' -c fsync
    each 150 '"fpunch " i * 8 "k 4k"' | xfs_io "$1" > /dev/null 2>&1
}

# What is made and in the log, then what changes it.
work() {
    mkdir d1 d2 d3 gone
    (cd d1; names file- 1 400 | xargs touch)
    (cd gone; names some-long-name-to-fill-the-directory- 1 500 | xargs touch)
    io big -c 'pwrite -S 0x31 0 1m' -c fsync
    fragmented frag; fragmented frag2
    sync
    io clone -c 'reflink big' -c 'pwrite -S 0x41 100000 3000' -c fsync
    io clone2 -c 'reflink big 64k 0 256k' -c fsync
    io pieces -c 'truncate 1m'
    each 60 '"reflink big " (i * 37 % 250) * 4 "k " i * 16 "k 4k"' | xfs_io pieces > /dev/null 2>&1
    for n in 30 200 400 1000; do ln -s "$(repeat $n t)" d2/link$n; done
    : > attrs; i=0
    while [ $i -lt 40 ]; do setfattr -n user.a$i -v "$(repeat 90 v)$i" attrs; i=$((i + 1)); done
    : > remote; setfattr -n user.r -v "0x$(repeat 9000 a5)" remote
    : > small; setfattr -n user.one -v 1 small
    mkfifo d2/fifo; mknod d2/dev c 7 9; mknod d2/big b 300 200000
    chmod 4711 small; chown 77:88 small; touch -h -d '2001-02-03 04:05:06' small
    sync
    mv d1/file-1 d2/moved; mv d1/file-2 d1/file-3; mv d2 d3/sub
    rm -r gone
    (cd d1; names file- 100 300 | xargs rm -f)
    (cd d3; names x 1 200 | xargs touch; names x 30 160 | xargs rm -f)
    io unwritten -c 'falloc 0 300k' -c 'pwrite -S 0x51 10000 50000' -c fsync
    xfs_io -c 'truncate 400k' frag > /dev/null
    setfattr -x user.a3 attrs; setfattr -x user.one small
}

churn() {
    i=0
    while [ $i -lt "$1" ]; do
        io churn$i -c 'pwrite -S 0x61 0 40k' -c fsync
        [ $i -gt 4 ] && rm churn$((i - 4)); i=$((i + 1)); done
}

# Intents whose ends are in other checkpoints.
shared() {
    io big -c 'pwrite -S 0x31 0 2m' -c fsync
    (while [ ! -e stop ]; do sync; done) 2> /dev/null & syncing=$!
    i=0
    while [ $i -lt 40 ]; do
        io c$i -c 'reflink big'
        each 60 '"pwrite -S 0x77 " i * 16 "k 1k"' | xfs_io c$i > /dev/null
        xfs_io -c fsync c$i
        [ $i -gt 3 ] && rm c$((i - 3))
        [ $((i % 5)) = 0 ] && xfs_io -c 'truncate 100k' c$i
        i=$((i + 1)); done
    : > stop; wait $syncing
    (xfs_io -c 'truncate 0' c37; rm c38 c39) > /dev/null 2>&1 &
}

swapped() {
    for f in a b; do
        each 400 '"pwrite -S 0x4'$f' " i * 8 "k 4k"' | xfs_io -f $f > /dev/null; xfs_io -c fsync $f
    done
    sync; cd /; umount /mnt; mount -t xfs "$1" /mnt; cd /mnt
    xfs_io -c 'swapext b' a || exit 1
    touch -d '2001-01-01 00:00:00' a
}

stop() { cd /; xfs_io -x -c "shutdown $1" /mnt; }

leave() {
    mkdir -p /mnt; mount -t xfs "$2" /mnt || exit 1
    cd /mnt || exit 1
    case $1 in
    all) work; churn 3; stop -f ;;
    behind) work; sync; touch after-sync; stop '' ;;
    round) work; churn 500; stop -f ;;
    open)
        work; exec 5<> frag2 6<> clone 7<> attrs; rm frag2 clone attrs
        stop -f; exec 5<&- 6<&- 7<&- ;;
    busy)
        work
        (xfs_io -c 'truncate 0' frag; rm frag2 pieces) > /dev/null 2>&1 &
        usleep 40000; stop -f; wait ;;
    shared) shared; usleep 30000; stop -f; wait ;;
    swapped) swapped "$2"; stop -f ;;
    *) echo "dirty.sh: what is $1?" >&2; exit 2 ;;
    esac 2> /dev/null
    umount /mnt
}

case $1 in
leave) leave "$2" "$3" ;;
recover)
    shift; mkdir -p /mnt
    for device; do mount -t xfs "$device" /mnt && umount /mnt || exit 1; done ;;
*) echo "dirty.sh: what is $1?" >&2; exit 2 ;;
esac
