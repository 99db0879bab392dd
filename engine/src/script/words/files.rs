//! Words for files and directories.

use super::shared::{GROUP, MODE, OWNER, VARS, words};
use crate::script::vocabulary::{Modifier, modifier};

const CREATE_ONLY: Modifier = modifier!(
    create_only() =>
        "Written only if it does not exist; never changed afterwards."
);
const SENSITIVE: Modifier = modifier!(sensitive() => "Its content is never shown.");

words! {
    DIRECTORY = Resource(Files::Directory) directory(path: Path) {
        doc: "A directory. Missing parents are created with mode 0755 and belong to root. It cannot be one that the base system has, such as `/etc`: name a directory below it.";
        example: r#"directory("/var/opt/pf9/example").mode("0700");"#;
        rollback: "Removed if it was created and is empty, or `.exclusive()`; mode and owner set back.";
        MODE;
        OWNER;
        GROUP;
        exclusive() =>
            "Everything in it is the role's, even what other programs put there, and is removed with it.";
    }

    FILE = Resource(Files::File) file(path: Path) {
        doc: "A file with fixed content.";
        example: r#"file("/etc/pf9/example").content("hello\n").mode("0600");"#;
        rollback: "Removed, or written back as it was.";
        MODE;
        OWNER;
        GROUP;
        content(text: AnyText as Content) => "Its text.";
        payload(path: Path) => "A file of the role's payload to copy.";
        copy_of(path: Path) =>
            "A file of the host to copy; an earlier step may make it. A copy of a file that contains a secret, or that other users cannot read, is not shown, and its default mode is 0600.";
        CREATE_ONLY;
        SENSITIVE;
    }

    TEMPLATE = Resource(Files::Template) template(template: Text, path: Path) {
        doc: "A file rendered from a template under `phases/templates`. Unknown variables are errors. With a secret among its variables, the file is readable by its owner alone, or also by its group with `.mode(\"0640\")`.";
        example: r#"template("example/greeting.tmpl", "/etc/pf9/greeting").vars(#{ name: host.name });"#;
        rollback: "Removed, or written back as it was.";
        MODE;
        OWNER;
        GROUP;
        VARS;
        CREATE_ONLY;
        SENSITIVE;
    }

    SYMLINK = Resource(Files::Symlink) symlink(path: Path, target: Text) {
        doc: "A symbolic link.";
        example: r#"symlink("/opt/pf9/example", "/opt/pf9/roles");"#;
        rollback: "Removed, or pointed to where it pointed before.";
    }

    UNIT = Resource(Files::Unit) unit(name: Text as UnitName, template: Text) {
        doc: "A unit file in `/etc/systemd/system`, rendered from a template; systemd loads its files again. It cannot hold a secret: systemd shows the settings of units to every user.";
        example: r#"unit("example.service", "example/greeting.tmpl").vars(#{ name: host.name });"#;
        rollback: "Removed, or written back as it was; systemd loads its files again.";
        VARS;
    }

    ENV_FILE = Resource(Files::EnvFile) env_file(path: Path) {
        doc: "A file of `export KEY=\"VALUE\"` lines that a shell can source; special characters in values are escaped.";
        example: r#"env_file("/etc/pf9/example.env").values(#{ A: "b" }).mode("0640");"#;
        rollback: "Removed, or written back as it was.";
        MODE;
        OWNER;
        GROUP;
        values(values: Map) => "Variables by name; secrets stay references in the plan.";
    }

    DATA_ID = Resource(Files::DataId) data_id(name: Text, path: Path) {
        doc: "A file with a random id that lies with data and identifies it. nodelet records the id under this name. If the file is missing later, or holds another id, the phase fails before anything starts on the data. Mount the file into the container that uses the data.";
        example: r#"data_id("example", "/var/opt/pf9/example/data/id").keep();"#;
        rollback: "Removed, unless it is to be kept.";
    }
}
