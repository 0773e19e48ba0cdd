# Runs in the Linux guest: fills /dev/vda with whatever Linux can make and a
# reader can get wrong. Everything is the same at every run but timestamps. What it
# prints tells how far it came.
set -e
mount -t xfs /dev/vda /mnt
cd /mnt

# Names.
echo names
mkdir names
for name in 'with blank' "quote'd" 'double"d' 'back\slash' '$dollar' '#hash' '-dash' '*' '~' 'é' '&' 'tab	bed'; do
    echo "$name" > "names/$name"
done
echo raw > "names/$(printf 'not\377utf8')"
long=$(head -c 255 /dev/zero | tr '\0' n)
echo long > "names/$long"
deep=deep
for level in $(seq 60); do deep=$deep/$level; done
mkdir -p $deep
echo bottom > $deep/bottom

# Directories: in the inode, one block, leaves, nodes; with and without gaps.
echo directories
mkdir dir_few dir_block dir_leaf dir_node dir_gaps dir_emptied
fill() {
    i=0
    while [ $i -lt $2 ]; do
        : > $1/$3$i
        i=$((i + 1))
    done
}
fill dir_few 2 f
fill dir_block 40 entry_
fill dir_leaf 900 an_entry_of_a_leaf_directory_
fill dir_node 5000 an_entry_whose_name_takes_so_much_room_that_many_blocks_are_needed_for_the_directory_
fill dir_gaps 2000 an_entry_that_may_be_removed_again_
find dir_gaps -name '*[1357]' -print0 | xargs -0 rm
fill dir_emptied 1500 an_entry_that_is_removed_
find dir_emptied -type f -print0 | xargs -0 rm

# Contents: lengths around every border, many small files.
echo contents
mkdir sizes small
for length in 1 511 512 513 1023 1024 1025 4095 4096 4097 65535 65537 1000003; do
    xfs_io -f -c "pwrite -q -S $((length % 251 + 1)) 0 $length" sizes/$length
done
i=0
while [ $i -lt 400 ]; do
    echo "file number $i" > small/$i
    i=$((i + 1))
done

# Extents: thousands of holes, two files in each other's way, unwritten
# parts, far ends.
echo extents
mkdir extents
xfs_io -f -c 'pwrite -q -S 0x31 0 16m' -c fsync extents/punched
i=0
while [ $i -lt 2000 ]; do
    echo "fpunch $((i * 8192)) 4096"
    i=$((i + 1))
done | xfs_io extents/punched > /dev/null
{
    echo 'open -d -f extents/right'
    i=0
    while [ $i -lt 1200 ]; do
        echo "file 0"
        echo "pwrite -q -S $((i % 250 + 1)) $((i * 4096)) 4096"
        echo "file 1"
        echo "pwrite -q -S $((i % 249 + 2)) $((i * 4096)) 4096"
        i=$((i + 1))
    done
} | xfs_io -d -f extents/left > /dev/null
i=0
while [ $i -lt 1200 ]; do
    echo "pwrite -q -S $((i % 250 + 1)) $((i * 12288)) 4096"
    i=$((i + 1))
done | xfs_io -d -f extents/islands > /dev/null
xfs_io -f -c 'falloc 0 1m' -c 'pwrite -q -S 0x41 300000 77777' extents/unwritten
xfs_io -f -c 'falloc -k 0 1m' -c 'pwrite -q -S 0x42 0 100' extents/beyond_the_end
xfs_io -f -c 'pwrite -q -S 0x43 41943035 5' extents/far
xfs_io -f -c 'truncate 5m' extents/hole_only
xfs_io -f -c 'pwrite -q -S 0x44 0 3m' -c 'fzero 1m 1m' -c 'truncate 2500001' extents/zeroed

# Shared extents, where the file system has them.
echo shared extents
mkdir shared
xfs_io -f -c 'pwrite -q -S 0x51 0 2m' -c fsync shared/source
if xfs_io -f -c 'reflink shared/source' shared/clone > /dev/null 2>&1; then
    xfs_io -c 'pwrite -q -S 0x52 500000 4097' shared/clone
    xfs_io -f -c 'reflink shared/source 1m 0 65536' -c 'reflink shared/source 0 1m 65536' shared/parts > /dev/null
fi

# Links and special files.
echo links
mkdir links
ln small/1 links/hard
echo target > links/target
ln -s target links/near
ln -s ../small/7 links/up
for length in 59 300 336 337 512 1000 1023; do
    ln -s "$(head -c $length /dev/zero | tr '\0' s)" links/symlink_$length
done
mknod links/char c 5 1
mknod links/block b 7 300
mknod links/pipe p
chmod 4751 links/target
chown 1234:4321 links/hard

# Times before the epoch, after 2038.
echo times
mkdir times
touch -d '1960-02-03 04:05:06' times/before
touch -d '2100-01-02 03:04:05' times/after

# Extended attributes: in the inode, in leaves, in nodes, with values elsewhere.
echo attributes
mkdir attributes
value() {
    head -c $1 /dev/zero | tr '\0' "$2" | xxd -p | tr -d '\n'
}
echo a > attributes/inline
setfattr -n user.one -v 1 attributes/inline
setfattr -n trusted.two -v 0x0001ff attributes/inline
setfattr -n security.three -v three attributes/inline
setfattr -n user.empty attributes/inline
echo b > attributes/leaf
i=0
while [ $i -lt 30 ]; do
    setfattr -n user.attribute_$i -v 0x$(value 60 b) attributes/leaf
    i=$((i + 1))
done
echo c > attributes/node
i=0
while [ $i -lt 200 ]; do
    setfattr -n user.attribute_with_a_longer_name_$i -v 0x$(value 90 c) attributes/node
    i=$((i + 1))
done
echo d > attributes/remote
for length in 1500 3000 4000 4096 10000 60000; do
    setfattr -n user.remote_$length -v 0x$(value $length d) attributes/remote
done
setfattr -n user.directory -v here attributes
setfattr -h -n trusted.link -v there links/near
cd /
echo unmounting
umount /mnt
