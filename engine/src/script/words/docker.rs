//! Words for images and containers.

use super::shared::word;
use crate::script::vocabulary::{Arg, Word, WordKind, modifier, p, repeatable};

pub(super) const IMAGE: Word = word(
    "image",
    WordKind::Resource,
    &[p("reference", Arg::Text)],
    &[modifier(
        "archive",
        &[p("path", Arg::Path)],
        "Archive in the role's payload, as `docker save` writes it.",
    )],
    "A container image on the host. Nothing is pulled.",
    r#"image("example:1").archive("/opt/pf9/roles/pf9-kube/current/payload/images/example.tar");"#,
    "Removed if it was loaded.",
);

pub(super) const CONTAINER: Word = word(
    "container",
    WordKind::Resource,
    &[p("name", Arg::Text)],
    &[
        modifier("image", &[p("reference", Arg::Text)], "The image to run."),
        modifier(
            "command",
            &[p("argv", Arg::Texts)],
            "Command and arguments.",
        ),
        modifier(
            "env",
            &[p("values", Arg::Map)],
            "Environment variables by name. They cannot hold a secret, because the container runtime shows them.",
        ),
        repeatable(
            "env_from",
            &[p("step", Arg::Steps)],
            "A file step of `KEY=value` lines to add to the environment. The file cannot hold a secret.",
        ),
        repeatable(
            "mount",
            &[p("source", Arg::Path), p("target", Arg::Path)],
            "A directory of the host, writable in it.",
        ),
        repeatable(
            "mount_read_only",
            &[p("source", Arg::Path), p("target", Arg::Path)],
            "A directory of the host, read-only in it.",
        ),
        modifier("host_network", &[], "Shares the host's network."),
        modifier("privileged", &[], "All capabilities and devices."),
        modifier("user", &[p("user", Arg::Text)], "User, `uid[:gid]`."),
        modifier(
            "restart",
            &[p("policy", Arg::Text)],
            "`always` (the default), `unless-stopped` or `no`.",
        ),
        repeatable(
            "restart_on",
            &[p("steps", Arg::Steps)],
            "Steps of this phase whose content it reads at its start: a change makes a new container.",
        ),
        modifier(
            "reads",
            &[p("paths", Arg::Paths)],
            "Files of other phases that it reads at its start: a change makes a new container.",
        ),
    ],
    "A container that runs with exactly this configuration.",
    r#"container("example").image("example:1").host_network().mount_read_only("/etc/pf9", "/etc/pf9");"#,
    "Removed, and the one it replaced is made again.",
);

pub(super) const IMAGE_DIRECTORY: Word = word(
    "image_directory",
    WordKind::Resource,
    &[p("path", Arg::Path)],
    &[modifier(
        "except",
        &[p("references", Arg::Texts)],
        "References of images that come from elsewhere. An archive that has another image with one of these references is reported and not loaded.",
    )],
    "Image archives (`docker save`) that an operator has put into a directory. Each is compared with its line in `checksum/sha256sums.txt` there, and loaded. The directory may be missing.",
    r#"image_directory("/var/opt/pf9/images");"#,
    "Its images are removed, or are as they were before.",
);
