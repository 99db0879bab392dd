# Gathers what the role package carries besides its scripts: programs, images, and Debian packages with their dependencies.
#
# In: BIN, IMAGES (directories), STATUS (dpkg's status of the bare host without docker), PACKAGES (space separated).
set -eu

mkdir -p bin images debs
# Links, not copies: the cache is one file system.
ln -f "$BIN/kubelet" "$BIN/kubectl" bin/
ln -f "$IMAGES"/*.tar images/

# Each closure is taken relative to the bare host, so `dpkg -i` of one list succeeds there without any other list. An empty archive
# folder makes apt fetch every file it needs. The status is copied because apt puts its locks beside it.
mkdir -p state
cp "$STATUS" state/status
host_apt() {
    apt-get -q -y -o Dir::State::status="$PWD/state/status" -o Dir::Cache::archives="$PWD/apt" -o APT::Sandbox::User=root \
        -o APT::Install-Recommends=false "$@"
}
for package in $PACKAGES; do
    rm -rf apt && mkdir -p apt/partial
    host_apt --download-only install "$package"
    (cd apt && ls -1 ./*.deb | sed 's#^\./##') > "debs/$package.list"
    mv apt/*.deb debs/
done
rm -rf apt state

find bin images debs -type f | LC_ALL=C sort | xargs sha256sum > sums
find bin images debs -type f | LC_ALL=C sort | xargs stat -c '%s' > sizes
