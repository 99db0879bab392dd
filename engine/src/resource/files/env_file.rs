//! A file of `export KEY="VALUE"` lines that a shell can source: `/etc/pf9/kube.env`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::file::remember;
use super::hidden::{HIDDEN, is_private};
use super::owner::{Owner, Resolved, known};
use crate::env::KEYS;
use crate::host::{Attributes, Entry, EntryKind};
use crate::model::Value;
use crate::resource::change::{Differences, TextDiff, content_digest};
use crate::resource::{
    Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceResult, Undo, create_parents,
};

/// Variables in a file. The plan contains references to secret values; the values appear only in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvFileSpec {
    /// Its path.
    pub path: PathBuf,
    /// Variables by name.
    pub values: BTreeMap<String, Value>,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// Names of owner and group, if the script gives names.
    #[serde(default, skip_serializing_if = "Owner::is_unnamed")]
    pub owner: Owner,
}

/// The current state of the file, and its desired content.
pub struct Observed {
    entry: Option<Entry>,
    content: Option<Vec<u8>>,
    desired: String,
    /// The desired content with a mask in place of each secret.
    shown: String,
    /// Desired mode and owner.
    attributes: Resolved,
}

#[async_trait]
impl Resource for EnvFileSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let mut values = BTreeMap::new();
        let mut shown = BTreeMap::new();
        // What is to be removed has no content to know.
        for (name, value) in self.values.iter().filter(|_| !cx.absent) {
            let json = cx.resolve(value)?;
            let text = json
                .as_str()
                .map_or_else(|| json.to_string(), str::to_owned);
            let mask = value.is_secret().then(|| HIDDEN.to_owned());
            shown.insert(name.clone(), mask.unwrap_or_else(|| text.clone()));
            values.insert(name.clone(), text);
        }
        let entry = cx.host.entry(&self.path).await?;
        // The target of a link is not ours.
        let content = match entry.as_ref().map(|entry| &entry.kind) {
            Some(EntryKind::File(_)) => cx.host.read(&self.path, READ_LIMIT).await?,
            _ => None,
        };
        Ok(Observed {
            entry,
            content,
            desired: render(&values),
            shown: render(&shown),
            attributes: self.owner.resolve(cx.host, self.attributes).await?,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        if absent {
            return observed.entry.as_ref().map(|_| Change::new(Action::Remove));
        }
        let Some(entry) = &observed.entry else {
            let change = Change::new(Action::Create);
            let attributes = &observed.attributes;
            let mut change = self.owner.of_new(change, self.attributes, attributes);
            change.text = Some(TextDiff {
                before: String::new(),
                after: observed.shown.clone(),
            });
            change.digest = self.digest(observed);
            return Some(change);
        };
        let mut differences = Differences::default();
        if !matches!(entry.kind, EntryKind::File(_)) {
            differences.note("kind", "not a file", "file");
        }
        self.owner.compare(
            &mut differences,
            entry.attributes,
            self.attributes,
            &observed.attributes,
        );
        if observed.content.as_deref() != Some(observed.desired.as_bytes()) {
            self.name_variables(observed, &mut differences);
        }
        let mut change = differences.into_change(Action::Change)?;
        change.digest = self.digest(observed);
        Some(change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let entry = observed.entry.as_ref();
        if cx.absent {
            remember(cx.host, &self.path, entry, "a file", receipt).await?;
            cx.host.remove(&self.path).await?;
            return Ok(());
        }
        let attributes = known(&self.path, &observed.attributes)?;
        create_parents(cx.host, &self.path, receipt).await?;
        if observed.content.as_deref() == Some(observed.desired.as_bytes()) {
            if let Some(entry) = entry {
                let undo = Undo::restore_attributes(&self.path, entry);
                receipt.push(undo).await?;
            }
            cx.host.set_attributes(&self.path, attributes).await?;
            return Ok(());
        }
        remember(cx.host, &self.path, entry, "a file", receipt).await?;
        cx.host
            .write(&self.path, observed.desired.as_bytes(), attributes)
            .await?;
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }
}

impl EnvFileSpec {
    /// Whether it holds a secret.
    pub(in crate::resource) fn is_secret(&self) -> bool {
        self.values.values().any(Value::is_secret)
    }

    /// The digest of a file without secrets. A secret with few possible values could be guessed from a digest.
    fn digest(&self, observed: &Observed) -> Option<String> {
        (!self.is_secret()).then(|| content_digest(observed.desired.as_bytes()))
    }

    /// Notes which variables differ; a secret value is shown as [`HIDDEN`] on both sides. An old value may have been a secret even if the
    /// new one is none: the setting of a secret may be empty by now.
    fn name_variables(&self, observed: &Observed, differences: &mut Differences) {
        let content = String::from_utf8_lossy(observed.content.as_deref().unwrap_or_default());
        let before = parse(&content);
        let after = parse(&observed.desired);
        let names: std::collections::BTreeSet<&String> =
            before.keys().chain(after.keys()).collect();
        let entry = observed.entry.as_ref();
        let was_private = entry.is_some_and(|entry| is_private(entry.attributes.mode));
        let mut named = false;
        for name in names {
            let (is, should) = (before.get(name), after.get(name));
            if is == should {
                continue;
            }
            named = true;
            // A variable that is not in the plan may be a secret: its value is not shown either.
            let secret = match self.values.get(name) {
                Some(value) => value.is_secret(),
                None => true,
            };
            let key = KEYS.iter().find(|key| key.name == name.as_str());
            let was_secret = secret || key.map_or(was_private, |key| key.secret);
            differences.note(name, shown(is, was_secret), shown(should, secret));
        }
        if !named {
            differences.note("text", "written otherwise", "as nodelet writes it");
        }
    }
}

/// A value as a change shows it.
fn shown(value: Option<&String>, is_secret: bool) -> &str {
    match value {
        None => "not set",
        Some(_) if is_secret => HIDDEN,
        Some(value) => value,
    }
}

/// The whole file.
fn render(values: &BTreeMap<String, String>) -> String {
    let mut text = format!("{}\n", crate::env::GENERATED_NOTICE);
    for (name, value) in values {
        text.push_str(&crate::env::assignment(name, value));
    }
    text
}

/// Variables by name; empty if the text cannot be parsed.
fn parse(text: &str) -> BTreeMap<String, String> {
    let assignments = crate::env::parse(std::path::Path::new("kube.env"), text.as_bytes());
    assignments
        .unwrap_or_default()
        .into_iter()
        .map(|a| (a.name, a.value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::model::SecretRef;
    use crate::resource::SecretStore;
    use crate::resource::tests::context;

    struct Secrets;

    impl SecretStore for Secrets {
        fn get(&self, _: &SecretRef) -> Option<String> {
            Some("hunter2".to_owned())
        }
    }

    fn with_secrets(host: &FakeHost) -> Context<'_> {
        Context {
            secrets: &Secrets,
            ..context(host)
        }
    }

    #[tokio::test]
    async fn a_file_that_must_not_exist_is_removed_and_comes_back() {
        let file = EnvFileSpec {
            path: "/etc/a.env".into(),
            values: BTreeMap::new(),
            attributes: Attributes::root(0o640),
            owner: Owner::default(),
        };
        let host = FakeHost::new().with_file("/etc/a.env", "A=1\n");
        let cx = Context {
            absent: true,
            ..with_secrets(&host)
        };
        let text = || host.with_world(|world| world.text("/etc/a.env"));
        let observed = file.observe(&cx).await.expect("it can be observed");
        let change = file.diff(&observed, true).expect("it is there");
        assert_eq!(change.action, Action::Remove);
        let mut receipt = Receipt::default();
        let removed = file.converge(&observed, &cx, &mut receipt).await;
        removed.expect("it is removed");
        assert_eq!(text(), None);
        let observed = file.observe(&cx).await.expect("it can be observed");
        assert_eq!(file.diff(&observed, true), None);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(text().as_deref(), Some("A=1\n"));
    }

    /// Name, old and new value of each variable that a change names, of a file that had this text.
    async fn told(mode: u32, before: &str, values: &[(&str, &str)]) -> Vec<[String; 3]> {
        let values = values.iter();
        let file = EnvFileSpec {
            path: "/etc/a.env".into(),
            values: values
                .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
                .collect(),
            attributes: Attributes::root(mode),
            owner: Owner::default(),
        };
        let host = FakeHost::new();
        host.with_world_mut(|world| world.file_with_mode("/etc/a.env", before, mode));
        let cx = with_secrets(&host);
        let observed = file.observe(&cx).await.expect("it can be observed");
        let change = file.diff(&observed, false).expect("it differs");
        let differences = change.differences.into_iter();
        differences
            .map(|one| [one.field, one.before, one.after])
            .collect()
    }

    #[tokio::test]
    async fn an_old_value_that_may_be_a_secret_is_hidden() {
        let before = "export DOCKERHUB_PASSWORD=\"hunter2\"\nexport GONE=\"hunter2\"\nexport MAX_PODS=\"100\"\nexport TOKEN=\"hunter2\"\n";
        let now = [
            ("DOCKERHUB_PASSWORD", ""),
            ("MAX_PODS", "110"),
            ("TOKEN", ""),
        ];
        for mode in [0o600, 0o640] {
            let told = told(mode, before, &now).await;
            let told: Vec<[&str; 3]> = told
                .iter()
                .map(|one| one.each_ref().map(String::as_str))
                .collect();
            assert_eq!(
                told,
                [
                    ["DOCKERHUB_PASSWORD", HIDDEN, ""],
                    ["GONE", HIDDEN, "not set"],
                    ["MAX_PODS", "100", "110"],
                    ["TOKEN", HIDDEN, ""],
                ],
                "{mode:o}"
            );
        }
        let told = told(0o644, "export DOCKERHUB_PASSWORD=\"hunter2\"\n", &now).await;
        assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
    }

    #[tokio::test]
    async fn old_values_of_a_file_for_all_users_are_shown() {
        let told = told(0o644, "export PORT=\"80\"\n", &[("PORT", "443")]).await;
        assert_eq!(told, [["PORT", "80", "443"]]);
    }

    #[tokio::test]
    async fn a_new_file_shows_its_variables_and_no_secret() {
        let file = EnvFileSpec {
            path: "/etc/pf9/kube.env".into(),
            values: BTreeMap::from([
                ("PORT".to_owned(), Value::from("443")),
                (
                    "TOKEN".to_owned(),
                    Value::Secret(SecretRef("kube/TOKEN".to_owned())),
                ),
            ]),
            attributes: Attributes::root(0o640),
            owner: Owner::default(),
        };
        let host = FakeHost::new();
        let cx = with_secrets(&host);
        let observed = file.observe(&cx).await.expect("it can be observed");
        let change = file.diff(&observed, false).expect("it is not there");
        let text = change.text.expect("it is told").after;
        assert!(text.contains("export PORT=\"443\"\n"), "{text}");
        assert!(text.contains("export TOKEN=\"(hidden)\"\n"), "{text}");
        assert_eq!(change.digest, None, "it could be guessed from");
    }
}
