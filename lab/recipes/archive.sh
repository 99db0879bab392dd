# Shell functions for recipes that make images. Sourced in front of them.

# A file system of just these packages and what they depend on, unpacked without running any of their scripts.
unpack() { # DIRECTORY PACKAGES
    mmdebstrap --mode=root --variant=extract --include="$2" --format=directory "$SUITE" "$1" - < "$SOURCES"
    rm -rf "$1"/var/lib/apt "$1"/var/cache "$1"/var/lib/dpkg "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale \
        "$1"/usr/share/lintian "$1"/usr/share/perl* "$1"/usr/lib/*/perl* "$1"/dev "$1"/etc/apt
}

# An image that `docker load` takes, with one layer, the same bytes for the same content.
archive() { # REFERENCE DIRECTORY FILE [ENTRYPOINT]
    rm -rf image && mkdir image
    tar --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 -C "$2" -cf image/layer.tar .
    layer=$(sha256sum image/layer.tar | cut -d' ' -f1)
    printf '{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=%s"]%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "${4:+,\"Entrypoint\":[\"$4\"]}" "$layer" > image/config.json
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" > image/manifest.json
    tar --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 -C image -cf "$3" manifest.json config.json layer.tar
    rm -rf image
}
