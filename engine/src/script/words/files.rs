//! Words for files and directories.

use super::shared::{GROUP, MODE, OWNER, VARS, word};
use crate::script::vocabulary::{Arg, Modifier, Word, WordKind, modifier, p};

const CREATE_ONLY: Modifier = modifier(
    "create_only",
    &[],
    "Written only if it does not exist; never changed afterwards.",
);
const SENSITIVE: Modifier = modifier("sensitive", &[], "Its content is never shown.");

pub(super) const DIRECTORY: Word = word(
    "directory",
    WordKind::Resource,
    &[p("path", Arg::Path)],
    &[
        MODE,
        OWNER,
        GROUP,
        modifier(
            "exclusive",
            &[],
            "Everything in it is ours, even what other programs put there, and is removed with it.",
        ),
    ],
    "A directory. Missing parents are created with mode 0755 and belong to root. It cannot be one that the base system has, such as `/etc`: name a directory below it.",
    r#"directory("/var/opt/pf9/example").mode("0700");"#,
    "Removed if it was created and is empty, or `.exclusive()`; mode and owner set back.",
);

pub(super) const FILE: Word = word(
    "file",
    WordKind::Resource,
    &[p("path", Arg::Path)],
    &[
        MODE,
        OWNER,
        GROUP,
        modifier("content", &[p("text", Arg::AnyText)], "Its text."),
        modifier(
            "payload",
            &[p("path", Arg::Path)],
            "A file of the role's payload to copy.",
        ),
        modifier(
            "copy_of",
            &[p("path", Arg::Path)],
            "A file of the host to copy; an earlier step may make it. A copy of a file that contains a secret, or that other users cannot read, is not shown, and its default mode is 0600.",
        ),
        CREATE_ONLY,
        SENSITIVE,
    ],
    "A file with fixed content.",
    r#"file("/etc/pf9/example").content("hello\n").mode("0600");"#,
    "Removed, or written back as it was.",
);

pub(super) const TEMPLATE: Word = word(
    "template",
    WordKind::Resource,
    &[p("template", Arg::Text), p("path", Arg::Path)],
    &[MODE, OWNER, GROUP, VARS, CREATE_ONLY, SENSITIVE],
    "A file rendered from a template under `phases/templates`. Unknown variables are errors. With a secret among its variables, the file is readable by its owner alone, or also by its group with `.mode(\"0640\")`.",
    r#"template("example/greeting.tmpl", "/etc/pf9/greeting").vars(#{ name: host.name });"#,
    "Removed, or written back as it was.",
);

pub(super) const SYMLINK: Word = word(
    "symlink",
    WordKind::Resource,
    &[p("path", Arg::Path), p("target", Arg::Text)],
    &[],
    "A symbolic link.",
    r#"symlink("/opt/pf9/example", "/opt/pf9/roles");"#,
    "Removed, or pointed to where it pointed before.",
);

pub(super) const UNIT: Word = word(
    "unit",
    WordKind::Resource,
    &[p("name", Arg::Text), p("template", Arg::Text)],
    &[VARS],
    "A unit file in `/etc/systemd/system`, rendered from a template; systemd loads its files again. It cannot hold a secret: systemd shows the settings of units to every user.",
    r#"unit("example.service", "example/greeting.tmpl").vars(#{ name: host.name });"#,
    "Removed, or written back as it was; systemd loads its files again.",
);

pub(super) const ENV_FILE: Word = word(
    "env_file",
    WordKind::Resource,
    &[p("path", Arg::Path)],
    &[
        MODE,
        OWNER,
        GROUP,
        modifier(
            "values",
            &[p("values", Arg::Map)],
            "Variables by name; secrets stay references in the plan.",
        ),
    ],
    "A file of `export KEY=\"VALUE\"` lines that a shell can source; special characters in values are escaped.",
    r#"env_file("/etc/pf9/example.env").values(#{ A: "b" }).mode("0640");"#,
    "Removed, or written back as it was.",
);

pub(super) const DATA_ID: Word = word(
    "data_id",
    WordKind::Resource,
    &[p("name", Arg::Text), p("path", Arg::Path)],
    &[],
    "A file with a random id that lies with data and identifies it. nodelet records the id under this name. If the file is missing later, or holds another id, the phase fails before anything starts on the data. Mount the file into the container that uses the data.",
    r#"data_id("example", "/var/opt/pf9/example/data/id").keep();"#,
    "Removed, unless it is to be kept.",
);
