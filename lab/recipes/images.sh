# Makes the images of the control plane as files for `docker load`.
#
# In: BIN and SOURCE (from the Kubernetes steps), TAG, ETCD_TAG, PAUSE_TAG, SUITE, SOURCES.
set -eu

for program in kube-apiserver kube-controller-manager kube-scheduler; do
    rm -rf root && mkdir -p root/usr/local/bin root/tmp
    cp "$BIN/$program" root/usr/local/bin/
    archive "k8s.gcr.io/$program:$TAG" root "$program.tar"
done

# kube-proxy calls tools of the system. The iptables front end is the nft one, like the hosts': rules written through the other
# front end would be invisible to them.
rm -rf root && unpack root iptables,conntrack,ipset,kmod,busybox-static
mkdir -p root/usr/local/bin root/usr/sbin root/tmp root/run
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sf xtables-nft-multi "root/usr/sbin/$name"
done
ln -sf busybox root/bin/sh
cp "$BIN/kube-proxy" root/usr/local/bin/
archive "k8s.gcr.io/kube-proxy:$TAG" root kube-proxy.tar

rm -rf root && unpack root etcd-server,etcd-client,busybox-static
mkdir -p root/usr/local/bin root/tmp
ln -sf busybox root/bin/sh
ln -s ../../bin/etcd ../../bin/etcdctl root/usr/local/bin/
archive "k8s.gcr.io/etcd:$ETCD_TAG" root etcd.tar

rm -rf root && mkdir root
gcc -static -Os -o root/pause "$SOURCE/build/pause/linux/pause.c" -DVERSION="v$PAUSE_TAG"
# The one image that is started without a command: a sandbox names none.
archive "k8s.gcr.io/pause:$PAUSE_TAG" root pause.tar /pause
rm -rf root
