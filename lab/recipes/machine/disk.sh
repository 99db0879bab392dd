# Makes the disk, the kernel and the key of a virtual lab host out of a root file system with a kernel in it.
#
# In: ROOT (the file system as a tar), PARTS (the folder with the files that go into the machine and beside it).
set -eu

mkdir tree
tar -C tree -xf "$ROOT"
cp tree/boot/vmlinuz-* vmlinuz
cp tree/boot/initrd.img-* initrd

# Only the container that the machine runs in can use this key: nothing else reaches the machine's network.
ssh-keygen -q -t ed25519 -N '' -C lab -f key
install -D -m 600 key.pub tree/root/.ssh/authorized_keys

rm -f tree/sbin/lab-init
cp "$PARTS/boot" tree/sbin/lab-boot
cp "$PARTS/lab-boot.service" tree/etc/systemd/system/
chmod 755 tree/sbin/lab-boot
mkdir -p tree/etc/systemd/system/multi-user.target.wants
ln -s ../lab-boot.service tree/etc/systemd/system/multi-user.target.wants/
cp "$PARTS/run" "$PARTS/exec" .
chmod 755 run exec

# Sparse, so it costs what is in it.
mke2fs -q -t ext4 -L root -d tree disk 20G
rm -r tree
