# Runs in a Linux guest on the image that xfs_names_linux.rs made: looks at every name and
# attribute, takes all of them away, and leaves some of its own.
set -e
mount -t xfs /dev/vda /mnt
cd /mnt
die() { echo "names_linux: $1"; exit 1; }
for pair in sf:8 block:50 leaf:400 node:9000 colliding:2048; do
    dir=${pair%:*}; count=${pair#*:}
    [ "$(ls $dir | wc -l)" = $count ] || die "$dir does not have $count names"
    [ "$(find $dir -type f | wc -l)" = $count ] || die "names of $dir cannot be looked up"
done
[ "$(readlink short)" = sf ] || die "short"
[ "$(readlink long | tr -d '\n' | wc -c)" = 1023 ] || die "long"
for triple in few:2:10 leafy:8:50 many:400:90 large:5:50000; do
    name=${triple%%:*}; rest=${triple#*:}; count=${rest%:*}; length=${rest#*:}
    [ "$(getfattr $name | grep -c user.attribute)" = $count ] || die "$name: attributes"
    i=0
    while [ $i -lt $count ]; do
        n=$(getfattr --only-values -n user.attribute-$((2 * i)) $name | wc -c)
        [ $n = $((length + 2 * i)) ] || die "$name: attribute $i has $n bytes"
        setfattr -x user.attribute-$((2 * i)) $name || die "$name: attribute $i stays"
        i=$((i + 1))
    done
    [ "$(getfattr $name | wc -l)" = 0 ] || die "$name: attributes are left"
done
rm -r sf block leaf node colliding short long few leafy many large || die "rm"
mkdir linux; cd linux; i=0
while [ $i -lt 3000 ]; do
    : > a-name-that-linux-made-$i
    [ $((i % 100)) = 0 ] && setfattr -n user.linux -v "$(head -c $((i + 1)) /dev/zero | tr '\0' x)" a-name-that-linux-made-$i
    i=$((i + 1))
done
cd /
umount /mnt
echo names_linux: good
