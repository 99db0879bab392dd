//! The owner and the group of a file or directory, as a script names them.
//!
//! Names become numbers when the step runs, because an earlier step or package may make the account. They are looked up in
//! `/etc/passwd` and `/etc/group`. Accounts of other sources (LDAP, SSSD) are not seen: a script gives their numbers.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Host};
use crate::resource::change::{Differences, octal};
use crate::resource::{Change, READ_LIMIT, ResourceError, ResourceResult};

/// Names of accounts. Without a name, the number in [`Attributes`] counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Attributes with the numbers of the names. `Err` says which name is not known yet.
pub(in crate::resource) type Resolved = Result<Attributes, String>;

impl Owner {
    /// Whether it has no name.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.user.is_none() && self.group.is_none()
    }

    /// The attributes with the numbers of these names. Cancel safe.
    pub(in crate::resource) async fn resolve(
        &self,
        host: &dyn Host,
        given: Attributes,
    ) -> ResourceResult<Resolved> {
        let mut resolved = given;
        if let Some(name) = &self.user {
            match number(host, "/etc/passwd", name).await? {
                Some(uid) => resolved.uid = uid,
                None => return Ok(Err(format!("/etc/passwd has no user `{name}`"))),
            }
        }
        if let Some(name) = &self.group {
            match number(host, "/etc/group", name).await? {
                Some(gid) => resolved.gid = gid,
                None => return Ok(Err(format!("/etc/group has no group `{name}`"))),
            }
        }
        Ok(Ok(resolved))
    }

    /// Adds mode and owner to the change of something that is not there yet. Root is not shown.
    pub(in crate::resource) fn of_new(
        &self,
        change: Change,
        given: Attributes,
        resolved: &Resolved,
    ) -> Change {
        let change = change.with("mode", "", octal(given.mode));
        match resolved {
            Ok(Attributes { uid: 0, gid: 0, .. }) if self.is_unnamed() => change,
            Ok(attributes) => change.with("owner", "", self.shown(*attributes)),
            Err(reason) => change.with("owner", "", late(reason)),
        }
    }

    /// Notes mode and owner of an existing entry if they differ.
    pub(in crate::resource) fn compare(
        &self,
        differences: &mut Differences,
        is: Attributes,
        given: Attributes,
        resolved: &Resolved,
    ) {
        differences.compare("mode", &octal(is.mode & 0o7777), &octal(given.mode));
        let owner = format!("{}:{}", is.uid, is.gid);
        match resolved {
            Ok(should) if (is.uid, is.gid) == (should.uid, should.gid) => {}
            Ok(should) => differences.note("owner", owner, self.shown(*should)),
            Err(reason) => differences.note("owner", owner, late(reason)),
        }
    }

    /// For example `123:124 (chrony:root)`.
    fn shown(&self, attributes: Attributes) -> String {
        let numbers = format!("{}:{}", attributes.uid, attributes.gid);
        if self.is_unnamed() {
            return numbers;
        }
        let name = |name: Option<&str>, number: u32| match name {
            Some(name) => name.to_owned(),
            None if number == 0 => "root".to_owned(),
            None => number.to_string(),
        };
        let user = name(self.user.as_deref(), attributes.uid);
        let group = name(self.group.as_deref(), attributes.gid);
        format!("{numbers} ({user}:{group})")
    }
}

fn late(reason: &str) -> String {
    format!("known after apply ({reason})")
}

/// The attributes to set at `path`.
///
/// # Errors
/// A name is not known. A dry run then continues, because an earlier step or package may make the account.
pub(in crate::resource) fn known(path: &Path, resolved: &Resolved) -> ResourceResult<Attributes> {
    match resolved {
        Ok(attributes) => Ok(*attributes),
        Err(reason) => Err(ResourceError::Missing {
            what: format!("give {} its owner: {reason}", path.display()),
        }),
    }
}

/// The number of a name in `/etc/passwd` or `/etc/group`: both have it in the third field.
async fn number(host: &dyn Host, file: &str, name: &str) -> ResourceResult<Option<u32>> {
    let content = host.read(Path::new(file), READ_LIMIT).await?;
    let content = content.unwrap_or_default();
    Ok(number_in(&String::from_utf8_lossy(&content), name))
}

/// The first line of the name counts, as for the C library.
fn number_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Files as _;
    use crate::host::fake::FakeHost;
    use crate::model::Text;
    use crate::resource::tests::{apply_in, context};
    use crate::resource::{Action, FileSource, FileSpec, Receipt};

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nchrony:x:105:111::/var/lib/chrony:/bin/false\n";
    const GROUP: &str = "root:x:0:\nchrony:x:111:\nkeys:x:112:chrony\n";
    const PATH: &str = "/etc/chrony.keys";

    fn file() -> FileSpec {
        FileSpec {
            path: PATH.into(),
            source: FileSource::Text(Text::Known("1 MD5 x\n".to_owned())),
            attributes: Attributes::root(0o640),
            owner: Owner {
                user: Some("chrony".to_owned()),
                group: Some("keys".to_owned()),
            },
            create_only: false,
            secret: false,
            unit: false,
        }
    }

    /// Converges the file; returns the change and what it takes to undo it.
    async fn converge(host: &FakeHost) -> ResourceResult<(Option<Change>, Receipt<'static>)> {
        let mut receipt = Receipt::default();
        let change = apply_in(&context(host), &file(), &mut receipt).await?;
        Ok((change, receipt))
    }

    async fn attributes_of(host: &FakeHost) -> Option<(u32, u32, u32)> {
        let entry = host.entry(Path::new(PATH)).await.expect("it answers")?;
        let Attributes { mode, uid, gid } = entry.attributes;
        Some((mode, uid, gid))
    }

    #[tokio::test]
    async fn a_named_owner_is_set_shown_and_taken_back() {
        let host = FakeHost::new()
            .with_file("/etc/passwd", PASSWD)
            .with_file("/etc/group", GROUP);
        let (change, receipt) = converge(&host).await.expect("it is written");
        let change = change.expect("it was not there");
        assert_eq!(change.action, Action::Create);
        let owner = change.differences.iter().find(|one| one.field == "owner");
        let after = owner.map(|one| one.after.as_str());
        assert_eq!(after, Some("105:112 (chrony:keys)"));
        assert_eq!(attributes_of(&host).await, Some((0o640, 105, 112)));
        let (again, _) = converge(&host).await.expect("it is the same");
        assert_eq!(again, None);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(attributes_of(&host).await, None);
    }

    #[tokio::test]
    async fn the_previous_owner_comes_back() {
        let host = FakeHost::new()
            .with_file("/etc/passwd", PASSWD)
            .with_file("/etc/group", GROUP)
            .with_file(PATH, "1 MD5 x\n");
        let (change, receipt) = converge(&host).await.expect("it is changed");
        let change = change.expect("it belongs to root");
        assert_eq!(change.action, Action::Change);
        assert_eq!(attributes_of(&host).await, Some((0o640, 105, 112)));
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(attributes_of(&host).await, Some((0o644, 0, 0)));
    }

    #[tokio::test]
    async fn a_name_that_is_not_known_changes_nothing() {
        let host = FakeHost::new().with_file("/etc/passwd", PASSWD);
        let error = converge(&host).await.expect_err("there is no group");
        let wanted = "give /etc/chrony.keys its owner: /etc/group has no group `keys`";
        assert_eq!(error.to_string(), wanted);
        assert!(!error.is_permanent(), "a dry run continues");
        assert_eq!(attributes_of(&host).await, None);
    }

    #[test]
    fn a_name_is_the_whole_first_field() {
        assert_eq!(number_in(PASSWD, "chrony"), Some(105));
        for other in ["chron", "x", "", "chrony:x"] {
            assert_eq!(number_in(PASSWD, other), None, "{other}");
        }
        assert_eq!(number_in("broken\nbroken:x\nbroken:x:no\n", "broken"), None);
    }

    /// A spec without names is the same as before there were names.
    #[test]
    fn a_spec_of_an_earlier_version_is_read_and_written_as_it_was() {
        let mut file = file();
        file.owner = Owner::default();
        let json = serde_json::to_value(&file).expect("it is JSON");
        assert!(json.get("owner").is_none(), "{json}");
        let read: FileSpec = serde_json::from_value(json).expect("it is read");
        assert_eq!(read, file);
    }
}
