# Runs in the Linux guest behind populate.sh: prints what Linux reads on
# /dev/vda, in sections.
mount -t xfs -o ro /dev/vda /mnt
cd /mnt
find . -xdev | sort > /tmp/paths
echo '== paths'
cat /tmp/paths
echo '== stat'
tr '\n' '\0' < /tmp/paths | xargs -0 stat -c '%f %s %h %u %g %X %Y %Z %i %b %B %t %T'
echo '== hashes'
find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum
echo '== symlinks'
find . -xdev -type l | sort | while read -r path; do readlink "$path"; done
echo '== attributes'
getfattr -R -P -h -d -m - -e hex .
echo '== end'
