# Builds the root file system of the containers in which virtual lab hosts run: an emulator, and a client to reach the machine.
#
# In: SUITE, SOURCES (apt source lines), INCLUDE (packages, comma separated).
set -eu
mmdebstrap --mode=root --variant=minbase --include="$INCLUDE" --skip=check/empty "$SUITE" host.tar - < "$SOURCES"
