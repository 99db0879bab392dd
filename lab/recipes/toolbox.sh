# Makes the workload image of the lab's tests: busybox with all its names (among them an HTTP server and client).
#
# In: REFERENCE.
set -eu

mkdir -p root/bin root/tmp root/etc root/www
cp /bin/busybox root/bin/busybox
for name in $(/bin/busybox --list); do
    [ "$name" = busybox ] || ln -s busybox "root/bin/$name"
done
echo 'root:x:0:0:root:/:/bin/sh' > root/etc/passwd
echo 'hello from the toolbox' > root/www/index.html
archive "$REFERENCE" root toolbox.tar
rm -rf root
