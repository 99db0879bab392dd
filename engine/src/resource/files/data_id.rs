//! A file that identifies the data in its directory, so that lost or exchanged data is noticed before a program uses it.
//!
//! The file is stored with the data and contains a random id; a record below the engine's state says which id the data of this name has. A
//! copy of the record is in another directory, so that lost data is noticed even if the record is lost, too. A container that must start
//! on this data only mounts the file: the container runtime refuses to start the container if the file is missing.
//!
//! Data that has neither a record nor its copy is accepted as it is, because earlier versions wrote no records. The file is written before
//! the records, so a run that is interrupted between them leaves data without a record.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};

use super::file::{PRIVATE, remember};
use crate::host::{Attributes, Entry, EntryKind, Host};
use crate::model::{RECORDS, STATE};
use crate::resource::{
    Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, create_parents_with,
};

/// Maximum size of the file and of the record. Both are far smaller.
const LIMIT: u64 = 4096;
/// Mode and owner of parent directories that are created.
const DIRECTORY: Attributes = Attributes::root(0o700);
/// Version of the record's format.
const VERSION: u32 = 1;

/// The file, and the name of the data in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdSpec {
    /// Name of the data, valid as a file name.
    pub name: String,
    /// Where the file is.
    pub path: PathBuf,
}

/// The current state of the file or of a record.
#[derive(Debug)]
struct FileState {
    entry: Option<Entry>,
    /// The id in it; the error says why there is none.
    id: Result<String, &'static str>,
}

/// The current state of the file and its records.
#[derive(Debug)]
pub struct Observed {
    file: FileState,
    /// The record and its copy.
    records: [FileState; 2],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataIdRecord {
    version: u32,
    id: String,
}

impl FileState {
    async fn read(
        host: &dyn Host,
        path: &Path,
        parse: impl Fn(&[u8]) -> Option<String>,
    ) -> ResourceResult<Self> {
        let entry = host.entry(path).await?;
        let id = match entry.as_ref().map(|entry| &entry.kind) {
            None => Err("missing"),
            Some(EntryKind::File(size)) if *size <= LIMIT => {
                let content = host.read(path, LIMIT).await?.unwrap_or_default();
                let id = parse(&content).filter(|id| is_id(id));
                id.ok_or("damaged or cut short")
            }
            Some(_) => Err("not written by nodelet"),
        };
        Ok(Self { entry, id })
    }

    fn differs_in_attributes(&self) -> bool {
        (self.entry.as_ref()).is_some_and(|entry| entry.attributes != PRIVATE)
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn new_id() -> ResourceResult<String> {
    let mut bytes = [0; 16];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| ResourceError::NotConverged {
            what: format!("the system gives no random numbers: {error}"),
        })?;
    Ok(crate::model::hex(&bytes))
}

/// Where the record of the data of this name and its copy are.
pub(in crate::resource) fn records(name: &str) -> [PathBuf; 2] {
    let name = format!("data-{name}.json");
    [Path::new(RECORDS).join(&name), Path::new(STATE).join(&name)]
}

impl DataIdSpec {
    /// Where the record and its copy are.
    fn records(&self) -> [PathBuf; 2] {
        records(&self.name)
    }

    fn of_other_data(&self, problem: &str) -> ResourceError {
        ResourceError::Unmet {
            what: format!(
                "use the data of {}: {} is {problem}, so the data was lost or exchanged; nothing was changed",
                self.name,
                self.path.display()
            ),
            next: format!(
                "put the right data back with this file in it, or restore a backup and copy this file from the previous data; if the \
                 present data is right and only this file is wrong, or if you want to start without any data, move {} away: the \
                 present data then gets an id",
                self.records()
                    .map(|record| record.display().to_string())
                    .join(" and ")
            ),
        }
    }

    /// What is wrong with the files; `None` if they are as they should be. Cancel safe.
    ///
    /// # Errors
    /// The data was lost or exchanged, or the host cannot be read.
    pub(crate) async fn problem(&self, cx: &Context<'_>) -> ResourceResult<Option<String>> {
        match self.observe(cx).await {
            Ok(observed) => Ok(self.diff(&observed, cx.absent).map(|_| {
                let path = self.path.display();
                let records = self.records().map(|record| record.display().to_string());
                let records = records.join(" or its copy ");
                format!("{path}, its record {records} is missing, damaged or open to others; `nodelet apply` puts it right")
            })),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Resource for DataIdSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).trim_end().to_owned());
        let file = FileState::read(cx.host, &self.path, text).await?;
        let recorded = |bytes: &[u8]| {
            let record: DataIdRecord = serde_json::from_slice(bytes).ok()?;
            (record.version == VERSION).then_some(record.id)
        };
        let [record, copy] = self.records();
        let records = [
            FileState::read(cx.host, &record, recorded).await?,
            FileState::read(cx.host, &copy, recorded).await?,
        ];
        // Even an unreadable record shows that there was data.
        let had_data = records.iter().any(|record| record.entry.is_some());
        let mut known = records.iter().flat_map(|record| &record.id).peekable();
        if !cx.absent {
            match &file.id {
                Ok(id) if known.peek().is_some() && !known.any(|known| known == id) => {
                    return Err(self.of_other_data("that of other data"));
                }
                Err(problem) if had_data => return Err(self.of_other_data(problem)),
                _ => {}
            }
        }
        Ok(Observed { file, records })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        let Observed { file, records, .. } = observed;
        if absent {
            let mut all = records.iter().chain([file]);
            return all
                .any(|state_of_file| state_of_file.entry.is_some())
                .then(|| Change::new(Action::Remove));
        }
        let Ok(id) = &file.id else {
            return Some(Change::new(Action::Create).with("id", "", "random"));
        };
        for (record, name) in records.iter().zip(["record", "copy of the record"]) {
            let problem = match &record.id {
                Ok(its) if its == id => continue,
                Ok(_) => "of other data",
                Err(problem) => problem,
            };
            return Some(Change::new(Action::Change).with(name, problem, "made"));
        }
        let mut all = records.iter().chain([file]);
        all.any(FileState::differs_in_attributes)
            .then(|| Change::new(Action::Change).with("mode and owner", "others", "root, 0600"))
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let ([record, copy], [is_record, is_copy]) = (self.records(), &observed.records);
        let paths = [
            (self.path.clone(), &observed.file),
            (record, is_record),
            (copy, is_copy),
        ];
        if cx.absent {
            for (path, state_of_file) in paths {
                if let Some(entry) = &state_of_file.entry {
                    remember(cx.host, &path, Some(entry), "a file", receipt).await?;
                    cx.host.remove(&path).await?;
                }
            }
            return Ok(());
        }
        let id = match &observed.file.id {
            Ok(id) => id.clone(),
            Err(_) => new_id()?,
        };
        let record = DataIdRecord {
            version: VERSION,
            id: id.clone(),
        };
        let record = serde_json::to_vec(&record).expect("texts and numbers can be written");
        let contents = [format!("{id}\n").into_bytes(), record.clone(), record];
        for ((path, state_of_file), content) in paths.into_iter().zip(contents) {
            if state_of_file.id.as_ref() == Ok(&id) && !state_of_file.differs_in_attributes() {
                continue;
            }
            create_parents_with(cx.host, &path, |_| DIRECTORY, receipt).await?;
            let entry = state_of_file.entry.as_ref();
            remember(cx.host, &path, entry, "a file", receipt).await?;
            cx.host.write(&path, &content, PRIVATE).await?;
        }
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Files as _;
    use crate::host::fake::FakeHost;
    use crate::resource::tests::{apply_in, context};

    const FILE: &str = "/data/member/id";
    const RECORD: &str = "/var/opt/pf9/nodelet/kept/data-etcd.json";
    const COPY: &str = "/var/opt/pf9/nodelet/data-etcd.json";

    fn spec() -> DataIdSpec {
        DataIdSpec {
            name: "etcd".to_owned(),
            path: FILE.into(),
        }
    }

    async fn apply(host: &FakeHost) -> ResourceResult<Option<Change>> {
        apply_in(&context(host), &spec(), &mut Receipt::default()).await
    }

    fn text(host: &FakeHost, path: &str) -> Option<String> {
        host.with_world(|world| world.text(path))
    }

    async fn marked() -> FakeHost {
        let host = FakeHost::new();
        apply(&host).await.unwrap().expect("it is made");
        assert_eq!(apply(&host).await.unwrap(), None, "once");
        host
    }

    #[tokio::test]
    async fn lost_and_exchanged_data_is_refused_and_stays_as_it_is() {
        let other = text(&marked().await, FILE).unwrap();
        for content in [None, Some(""), Some("garbage"), Some(other.as_str())] {
            let host = marked().await;
            let before = text(&host, FILE).unwrap();
            match content {
                None => host.with_world_mut(|world| world.remove("/data")),
                Some(content) => host.with_world_mut(|world| world.file(FILE, content)),
            }
            host.clear_journal();
            let error = apply(&host).await.expect_err("it is other data");
            assert!(error.is_permanent(), "{error}");
            assert!(error.to_string().contains(FILE), "{error}");
            let ResourceError::Unmet { next, .. } = &error else {
                panic!("{error}");
            };
            assert!(next.starts_with("put the right data back"), "{next}");
            assert!(
                next.contains("the present data is right and only this file is wrong"),
                "{next}"
            );
            assert_eq!(host.mutations(), 0, "{content:?}");
            host.with_world_mut(|world| world.file(FILE, &before));
            apply(&host).await.expect("the right data is back");
            assert_eq!(text(&host, FILE).unwrap(), before);
        }
    }

    #[tokio::test]
    async fn a_lost_or_exchanged_record_is_made_again_from_the_other() {
        let other = text(&marked().await, RECORD).unwrap();
        for (lost, kept) in [(RECORD, COPY), (COPY, RECORD)] {
            for content in [None, Some(""), Some("{}"), Some(other.as_str())] {
                let host = marked().await;
                let before = [FILE, RECORD, COPY].map(|path| text(&host, path));
                match content {
                    None => host.with_world_mut(|world| world.remove(lost)),
                    Some(content) => host.with_world_mut(|world| world.file(lost, content)),
                }
                let damaged = host.fork();
                apply(&host).await.unwrap().expect("it differs");
                let after = [FILE, RECORD, COPY].map(|path| text(&host, path));
                assert_eq!(after, before, "{lost}: {content:?}");
                // Lost data is still noticed, and no new id is written.
                damaged.with_world_mut(|world| world.remove("/data"));
                damaged.clear_journal();
                let error = apply(&damaged).await.expect_err("there was data");
                assert!(error.is_permanent(), "{error}");
                assert_eq!(damaged.mutations(), 0, "{lost} {kept}: {content:?}");
            }
        }
    }

    #[tokio::test]
    async fn data_without_records_is_adopted_or_reset_on_request() {
        let host = marked().await;
        let before = [FILE, RECORD, COPY].map(|path| text(&host, path));
        for path in [RECORD, COPY] {
            host.with_world_mut(|world| world.remove(path));
        }
        apply(&host).await.unwrap().expect("they are made");
        assert_eq!([FILE, RECORD, COPY].map(|path| text(&host, path)), before);
        host.with_world_mut(|world| {
            for path in ["/data", RECORD, COPY] {
                world.remove(path);
            }
        });
        apply(&host).await.unwrap().expect("it is made");
        assert_ne!(text(&host, FILE), before[0]);
    }

    #[tokio::test]
    async fn mode_and_owner_are_put_right() {
        let host = marked().await;
        for path in [FILE, RECORD, COPY] {
            let wrong = Attributes {
                mode: 0o666,
                uid: 1,
                gid: 1,
            };
            host.set_attributes(Path::new(path), wrong).await.unwrap();
            apply(&host).await.unwrap().expect("it differs");
            let entry = host.entry(Path::new(path)).await.unwrap().unwrap();
            assert_eq!(entry.attributes, PRIVATE, "{path}");
        }
    }
}
