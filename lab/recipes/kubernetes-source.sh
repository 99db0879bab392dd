# Fetches Debian's Kubernetes source package and makes it build with Debian's own Go.
#
# In: VERSION (of the source package), GO (directory of the go tool). Works in the current directory; leaves `src/`.
set -eu

# A private copy of apt's sources that asks for source packages, so that the machine's own configuration stays as it is and no
# mirror is named here.
mkdir -p apt/parts apt/lists/partial
etc=$(apt-config shell etc Dir::Etc/d | sed "s/^etc='\(.*\)'$/\1/")
for file in "$etc"/sources.list "$etc"/sources.list.d/*.list; do
    if [ -f "$file" ]; then
        sed -n 's/^deb /deb-src /p' "$file" > "apt/parts/$(basename "$file" .list).list"
    fi
done
for file in "$etc"/sources.list.d/*.sources; do
    if [ -f "$file" ]; then
        sed 's/^Types:.*/Types: deb-src/' "$file" > "apt/parts/$(basename "$file")"
    fi
done
source_apt() {
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$PWD/apt/parts" \
        -o Dir::State::lists="$PWD/apt/lists" -o APT::Sandbox::User=root "$@"
}
source_apt update
source_apt source --download-only "kubernetes=$VERSION"

rm -rf src
dpkg-source --no-check -x ./*.dsc src

# The vendored reflect2 reaches into the runtime's map iterator, whose shape changed with Go 1.18: every map that is marshalled
# to JSON panics. Debian packages a version that knows the new shape.
rm -rf src/vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 src/vendor/github.com/modern-go/reflect2

# The release tarballs carry this generated file; Debian's source package does not. Its inputs are the packages that ask for it.
export PATH="$GO:$PATH" GOPATH="$PWD/gopath" GOCACHE="$PWD/gocache" GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
mkdir -p gopath/src/k8s.io
ln -sfn "$PWD/src" gopath/src/k8s.io/kubernetes
cd gopath/src/k8s.io/kubernetes
go build -o "$GOPATH/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -RlE --include='*.go' '^// \+k8s:openapi-gen=' pkg cmd plugin vendor/k8s.io \
    | grep -vE '/(code-generator|sample-apiserver|gengo|kube-openapi)/' \
    | xargs -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
"$GOPATH/openapi-gen" -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$GOPATH/violations" -o "$GOPATH/generated"
mv "$GOPATH/generated/k8s.io/kubernetes/pkg/generated/openapi/zz_generated.openapi.go" pkg/generated/openapi/

# Only the tree is needed from here on.
cd "$GOPATH/.."
rm -rf gopath gocache apt ./*.tar.?z
