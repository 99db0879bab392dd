# Builds the Kubernetes programs from `src/` into `bin/`.
#
# In: GIT_VERSION (such as v1.20.2), GO (directory of the go tool), SOURCE (the tree from kubernetes-source.sh).
# The Go build cache lies beside the result until the step is complete, so an interrupted build goes on where it stopped.
set -eu

export PATH="$GO:$PATH" GOPATH="$PWD/gopath" GOCACHE="$PWD/gocache" GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
mkdir -p gopath/src/k8s.io bin
OUT="$PWD/bin"
ln -sfn "$SOURCE" gopath/src/k8s.io/kubernetes
cd gopath/src/k8s.io/kubernetes

plain=${GIT_VERSION#v}
major=${plain%%.*}
rest=${plain#*.}
flags="-s -w"
for package in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$GIT_VERSION -X $package.gitMajor=$major -X $package.gitMinor=${rest%%.*}"
    flags="$flags -X $package.gitCommit=faecb196815e248d3ecfb03c680a4507229c2a56 -X $package.gitTreeState=clean"
done
for program in kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy kubectl kubeadm; do
    echo "building $program"
    go build -o "$OUT/$program" -ldflags "$flags" "./cmd/$program"
done

# The result is what stays; a finished artifact needs no build cache.
cd "$OUT/.."
chmod -R u+w gopath
rm -rf gopath gocache
