# Fetches Debian's Kubernetes source package and makes it build with Debian's own Go.
#
# In: VERSION (of the source package). Works in the current directory; leaves `src/`.
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
