//! Takes the facts of a host, through the `Host` traits only.
//!
//! Groups of questions are asked at the same time. An answer that fails becomes an entry of `unknown`.

mod address;
mod masters;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use futures::join;
use ipnet::IpNet;

use self::address::global_address;
pub(crate) use self::address::has_roots;
use super::fact_query::FactQuery;
use super::kernel::{FEATURES, Signs, cgroups, filesystem_of, unified_mount};
use super::model::{Disk, Facts, LinkFacts, Listener, UnitFacts, VIRTUAL_SERVICES};
use super::obstacle::{Obstacle, ObstacleKind};
use super::parse;
use crate::host::{CommandSpec, Entry, EntryKind, Host, HostError, HostResult};

/// Bound for the files of /proc and the like. Socket tables are the large ones: a line of 150 bytes for each connection.
const SYSTEM_FILE: u64 = 64 << 20;
/// Bound for files whose content goes into the facts.
const FILE_OF_INTEREST: u64 = 64 << 10;
/// How long gathering waits for the container runtime or a file system. If one of them hangs, all other facts are still gathered, and no
/// plan depends on its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the facts with the usual query.
///
/// # Errors
/// The host's name cannot be learnt; every other failure is an entry of `unknown`.
pub async fn gather(host: &dyn Host) -> HostResult<Facts> {
    gather_with(host, &FactQuery::usual()).await
}

/// Takes the facts, asking for what `query` lists; what it leaves out is unknown. Cancel safe.
///
/// # Errors
/// The host's name cannot be learnt; every other failure is an entry of `unknown`.
pub async fn gather_with(host: &dyn Host, query: &FactQuery) -> HostResult<Facts> {
    let asking = Asking {
        host,
        unknown: Mutex::default(),
    };
    let ask = &asking;
    let name = host
        .read(Path::new("/proc/sys/kernel/hostname"), SYSTEM_FILE)
        .await?;
    let name = String::from_utf8_lossy(&name.unwrap_or_default())
        .trim()
        .to_owned();
    let mut facts = Facts::nothing_about(&name);
    facts.clock = Some(humantime::format_rfc3339_seconds(host.now()).to_string());

    let mount_table = ask.text("/proc/mounts").await.unwrap_or_default();
    join!(
        ask.system(
            &mut facts.architecture,
            &mut facts.kernel,
            &mut facts.init,
            &mut facts.uid
        ),
        async { facts.os = ask.parsed("/etc/os-release", parse::os_release).await },
        async {
            let online = ask
                .parsed("/sys/devices/system/cpu/online", parse::online_cpus)
                .await;
            (facts.cpus, facts.cpu_list) =
                online.map_or((None, None), |(count, list)| (Some(count), list));
        },
        async { facts.memory_bytes = ask.parsed("/proc/meminfo", parse::memory).await },
        async { facts.swaps = ask.swaps().await },
        async { facts.links = ask.links().await },
        async {
            let routes = ask
                .text("/proc/net/route")
                .await
                .map(|text| parse::routes(&text));
            (facts.default_route, facts.routes) =
                routes.map_or((None, None), |(way, rest)| (way, Some(rest)));
        },
        async {
            if query.listeners {
                facts.listening = ask.listening().await;
            }
        },
        async { facts.disks = ask.disks(&query.disks, &mount_table).await },
        async {
            if !query.programs.is_empty() {
                let there = ask.names(&query.programs, |name| host.has_program(name));
                facts.programs = Some(there.await);
            }
        },
        async {
            let unified = match unified_mount(&mount_table) {
                Some(point) => ask.text(&format!("{point}/cgroup.controllers")).await,
                None => None,
            };
            facts.cgroups = cgroups(&mount_table, unified.as_deref());
        },
        async {
            if query.kernel_features {
                facts.kernel_features = ask.features().await;
            }
        },
        async { facts.sysctls = ask.values(&query.sysctls, |key| host.sysctl(key)).await },
        async {
            if query.container_runtime {
                let version = within_deadline(
                    "ask docker for its version",
                    host.container_runtime_version(),
                );
                facts.docker = ask.answer("docker", version).await;
            }
            // Without a runtime there is nothing to ask about images.
            if facts.docker.is_some() {
                let present = |name| async move {
                    let image = within_deadline("ask docker for an image", host.image(name));
                    Ok(image.await?.is_some())
                };
                facts.images = ask.names(&query.images, present).await;
            }
        },
        async { facts.units = ask.units(&query.units).await },
        async {
            facts.packages = ask
                .values(&query.packages, |name| host.package_version(name))
                .await
        },
        async {
            let exists = |path| async move { Ok(host.entry(Path::new(path)).await?.is_some()) };
            facts.earlier_clusters = ask
                .names(&query.earlier_clusters, exists)
                .await
                .into_iter()
                .collect();
        },
        async {
            if query.virtual_services {
                let services = ask.answer(VIRTUAL_SERVICES, host.virtual_services()).await;
                let services = services.unwrap_or_default();
                facts.virtual_services = services.iter().map(ToString::to_string).collect();
            }
        },
        async {
            let path = crate::model::preflight_record::path().display().to_string();
            let record = ask.optional(&path).await.unwrap_or_default();
            facts.met_before = crate::model::preflight_record::met(&record);
        },
        async { facts.masters = ask.masters().await },
        async {
            for place in &query.virtual_ips {
                if let Some(user) = ask.user_of(*place).await {
                    facts.address_users.insert(place.to_string(), user);
                }
            }
        },
        async { facts.vrrp_senders = ask.vrrp_senders(&query.vrrp_links).await },
        async {
            facts.files = ask
                .values(&query.files, |path| ask.file_of_interest(path))
                .await
        },
    );
    facts.address = facts
        .default_route
        .as_ref()
        .and_then(|way| global_address(facts.link(&way.link)?));
    facts.unknown = asking.unknown.into_inner().unwrap_or_default();
    for item in unasked(query) {
        facts
            .unknown
            .insert(item, "it was not collected".to_owned());
    }
    Ok(facts)
}

/// Items that were not asked for and whose absence from the facts would otherwise mean "not there".
fn unasked(query: &FactQuery) -> Vec<String> {
    let usual = FactQuery::usual();
    let mut unasked = Vec::new();
    for (all, asked) in [
        (usual.units, &query.units),
        (usual.earlier_clusters, &query.earlier_clusters),
    ] {
        let asked: BTreeSet<&String> = asked.iter().collect();
        unasked.extend(all.into_iter().filter(|item| !asked.contains(item)));
    }
    if !query.virtual_services {
        unasked.push(VIRTUAL_SERVICES.to_owned());
    }
    unasked
}

/// The host that is queried, and the items that it could not answer.
struct Asking<'a> {
    host: &'a dyn Host,
    unknown: Mutex<BTreeMap<String, String>>,
}

impl Asking<'_> {
    fn note(&self, item: &str, reason: impl ToString) {
        if let Ok(mut unknown) = self.unknown.lock() {
            unknown.insert(item.to_owned(), reason.to_string());
        }
    }

    /// The answer, or a note why there is none.
    async fn answer<T>(
        &self,
        item: &str,
        question: impl Future<Output = HostResult<T>>,
    ) -> Option<T> {
        question.await.map_err(|error| self.note(item, error)).ok()
    }

    async fn text(&self, path: &str) -> Option<String> {
        let content = self
            .answer(path, self.host.read(Path::new(path), SYSTEM_FILE))
            .await?;
        if content.is_none() {
            self.note(path, "there is no such file");
        }
        content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn parsed<T>(&self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(&self.text(path).await?);
        if parsed.is_none() {
            self.note(path, "its content cannot be parsed");
        }
        parsed
    }

    /// A file that need not exist.
    async fn optional(&self, path: &str) -> Option<String> {
        let content = self
            .answer(path, self.host.read(Path::new(path), SYSTEM_FILE))
            .await??;
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    async fn file_of_interest(&self, path: &str) -> HostResult<Option<String>> {
        let content = self.host.read(Path::new(path), FILE_OF_INTEREST).await?;
        Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names for which the question is answered with yes.
    async fn names<'n, F>(
        &self,
        names: &'n [String],
        question: impl Fn(&'n str) -> F,
    ) -> BTreeSet<String>
    where
        F: Future<Output = HostResult<bool>>,
    {
        let asked = names.iter().map(|name| {
            let question = question(name);
            async move {
                self.answer(name, question)
                    .await
                    .filter(|yes| *yes)
                    .map(|_| name.clone())
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The names that have a value, with the value.
    async fn values<'n, F>(
        &self,
        names: &'n [String],
        question: impl Fn(&'n str) -> F,
    ) -> BTreeMap<String, String>
    where
        F: Future<Output = HostResult<Option<String>>>,
    {
        let asked = names.iter().map(|name| {
            let question = question(name);
            async move { Some((name.clone(), self.answer(name, question).await??)) }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn system(
        &self,
        architecture: &mut Option<String>,
        kernel: &mut Option<String>,
        init: &mut Option<String>,
        uid: &mut Option<u32>,
    ) {
        let word = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        *architecture = match self.optional("/proc/sys/kernel/arch").await {
            Some(text) => word(&text),
            // Kernels before 6.1 do not show it.
            None => {
                let command = CommandSpec::new(["uname", "-m"]).complete_output();
                let output = self
                    .answer("architecture", self.host.run_ok(&command))
                    .await;
                output.and_then(|output| word(&output.stdout))
            }
        };
        *kernel = self.parsed("/proc/sys/kernel/osrelease", word).await;
        *init = self.parsed("/proc/1/comm", word).await;
        *uid = self.parsed("/proc/self/status", parse::effective_uid).await;
    }

    async fn swaps(&self) -> Option<Vec<super::model::Swap>> {
        // A kernel without swap has no such file.
        let content = self
            .answer(
                "/proc/swaps",
                self.host.read(Path::new("/proc/swaps"), SYSTEM_FILE),
            )
            .await?;
        Some(content.map_or_else(Vec::new, |bytes| {
            parse::swaps(&String::from_utf8_lossy(&bytes))
        }))
    }

    async fn links(&self) -> Option<Vec<LinkFacts>> {
        let links = self.answer("links", self.host.links()).await?;
        let mut links: Vec<LinkFacts> = links
            .into_iter()
            .map(|link| LinkFacts {
                name: link.name,
                up: link.up,
                addresses: link
                    .addresses
                    .iter()
                    .filter_map(|(ip, bits)| IpNet::new(*ip, *bits).ok())
                    .collect(),
            })
            .collect();
        links.sort();
        Some(links)
    }

    async fn listening(&self) -> Option<Vec<Listener>> {
        let ss = CommandSpec::new(["ss", "-Hltnp"]).complete_output();
        let (four, six, names) = join!(
            self.text("/proc/net/tcp"),
            self.optional("/proc/net/tcp6"),
            self.host.run_ok(&ss)
        );
        let mut found = parse::listeners(&four?);
        found.extend(parse::listeners(&six.unwrap_or_default()));
        // Without `ss` the listening program is unknown.
        let names = names
            .map(|output| parse::ss_programs(&output.stdout))
            .unwrap_or_default();
        for listener in &mut found {
            let Some((name, id)) = names.get(&listener.port) else {
                continue;
            };
            listener.program = Some(name.clone());
            // A process that has ended in the meantime has no control group.
            let groups = self.optional(&format!("/proc/{id}/cgroup")).await;
            listener.cgroup = groups.and_then(|text| parse::control_group(&text));
        }
        found.sort();
        found.dedup();
        Some(found)
    }

    async fn disks(&self, paths: &[String], mount_table: &str) -> Vec<Disk> {
        let disks = paths.iter().map(|path| async move {
            // A path from the settings may be on a network file system whose server does not answer.
            let at = Path::new(path);
            let space = within_deadline("ask how much room there is", self.host.space(at));
            let space = self.answer(path, space).await?;
            let mounted = filesystem_of(path, mount_table);
            let entry = within_deadline("look at the directory", self.host.entry(at)).await;
            let taken_by = self.taken_by(at, &entry).await;
            let directory = entry.ok().flatten();
            let directory = directory.filter(|entry| entry.kind == EntryKind::Directory);
            Some(Disk {
                path: path.clone(),
                free: space.free,
                total: space.total,
                read_only: mounted.as_ref().is_some_and(|(_, read_only)| *read_only),
                filesystem: mounted.map(|(kind, _)| kind),
                mode: directory
                    .map(|directory| format!("{:04o}", directory.attributes.mode & 0o7777)),
                taken_by,
            })
        });
        let mut disks: Vec<Disk> = join_all(disks).await.into_iter().flatten().collect();
        disks.sort();
        disks
    }

    /// What is in the way of a directory at `path`: something else at the path itself or above it. A link above the path is not in the way,
    /// because it may lead to a directory.
    async fn taken_by(&self, path: &Path, entry: &HostResult<Option<Entry>>) -> Option<Obstacle> {
        let kind_of = |entry: &HostResult<Option<Entry>>| match entry {
            Ok(entry) => entry.as_ref().map(|entry| entry.kind.clone()),
            Err(_) => None,
        };
        if let Some(kind) = kind_of(entry) {
            return ObstacleKind::of(&kind).map(Obstacle::from);
        }
        for above in path.ancestors().skip(1) {
            let entry = within_deadline("look above the directory", self.host.entry(above)).await;
            match kind_of(&entry) {
                Some(kind) => {
                    let obstacle = ObstacleKind::of(&kind).map(|kind| Obstacle {
                        kind,
                        above: Some(above.display().to_string()),
                    });
                    return obstacle.filter(|obstacle| !obstacle.may_lead_to_directory());
                }
                // On a disk that hangs, gathering does not wait for each parent directory in turn.
                None if matches!(entry, Err(HostError::Deadline { .. })) => return None,
                None => {}
            }
        }
        None
    }

    async fn units(&self, names: &[String]) -> BTreeMap<String, UnitFacts> {
        let units = names.iter().map(|name| async move {
            let state = self.answer(name, self.host.unit(name)).await?;
            let facts = UnitFacts {
                active: state.is_active(),
                enabled: state.enabled,
            };
            (state.loaded || facts.active).then(|| (name.clone(), facts))
        });
        join_all(units).await.into_iter().flatten().collect()
    }

    async fn features(&self) -> BTreeMap<String, bool> {
        let paths: Vec<String> = FEATURES
            .iter()
            .flat_map(|one| one.paths)
            .map(|&path| path.to_owned())
            .collect();
        let modules: Vec<String> = FEATURES
            .iter()
            .flat_map(|one| one.modules)
            .map(|&name| name.to_owned())
            .collect();
        let exists = |path| async move { Ok(self.host.entry(Path::new(path)).await?.is_some()) };
        let (paths, loaded, filesystems, targets, modules) = join!(
            self.names(&paths, exists),
            self.names(&modules, |name| self.host.module_loaded(name)),
            self.optional("/proc/filesystems"),
            self.optional("/proc/net/ip_tables_targets"),
            self.module_list(),
        );
        let words = [filesystems, targets]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n");
        let words = words.split_whitespace().map(str::to_owned).collect();
        let signs = Signs {
            paths,
            loaded,
            words,
            modules,
        };
        let mut features = BTreeMap::new();
        for feature in &FEATURES {
            match feature.available(&signs) {
                Some(available) => {
                    features.insert(feature.name.to_owned(), available);
                }
                None => self.note(
                    feature.name,
                    "the kernel does not show it and this host has no module list",
                ),
            }
        }
        features
    }

    /// The modules that this host can load into the running kernel.
    async fn module_list(&self) -> Option<String> {
        let release = self.optional("/proc/sys/kernel/osrelease").await?;
        let directory = format!("/lib/modules/{}", release.trim());
        let (loadable, builtin) = (
            format!("{directory}/modules.dep"),
            format!("{directory}/modules.builtin"),
        );
        let (loadable, builtin) = join!(self.optional(&loadable), self.optional(&builtin));
        Some(loadable? + builtin.unwrap_or_default().as_str())
    }
}

/// Asks the container runtime or a file system. No answer within [`TIMEOUT`] is an error, so the item becomes unknown.
async fn within_deadline<T>(
    action: &str,
    question: impl Future<Output = HostResult<T>>,
) -> HostResult<T> {
    let silent = |_| HostError::Deadline {
        action: action.to_owned(),
        after: TIMEOUT,
    };
    tokio::time::timeout(TIMEOUT, question)
        .await
        .map_err(silent)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Files as _;
    use crate::host::fake::{FakeHost, FaultPlan};

    #[tokio::test(start_paused = true)]
    async fn a_hanging_disk_is_unknown_and_other_facts_are_reported() {
        for question in ["space", "entry"] {
            let hangs = FaultPlan::none().stall(question, "/var");
            let host = FakeHost::new().with_faults(hangs);
            let gathering = tokio::time::timeout(Duration::from_secs(30), gather(&host));
            let facts = gathering.await.expect("it comes to its end").unwrap();
            let found_disk = facts.disks.iter().find(|disk| disk.path == "/var");
            match question {
                "space" => assert!(facts.unknown["/var"].contains("no answer within 5s")),
                _ => assert_eq!(found_disk.expect("its room is known").mode, None),
            }
            assert!(facts.links.is_some(), "{question}");
        }
    }

    #[tokio::test]
    async fn obstacles_of_a_directory_are_named() {
        let host = FakeHost::new()
            .with_file("/srv/file", "x")
            .with_directory("/srv/there");
        host.symlink(Path::new("/srv/link"), "/srv/there")
            .await
            .unwrap();
        let paths = [
            ("/srv/there", None),
            ("/srv/none/yet", None),
            ("/srv/link/below", None),
            ("/srv/link", Some("a link")),
            ("/srv/file", Some("a file")),
            ("/srv/file/below/it", Some("a file (/srv/file)")),
        ];
        let query = FactQuery::usual().and_disks(paths.map(|(path, _)| path.to_owned()));
        let facts = gather_with(&host, &query).await.unwrap();
        for (path, taken_by) in paths {
            let disk = facts.disks.iter().find(|disk| disk.path == path);
            let told = disk.expect(path).taken_by.as_ref();
            let told = told.map(ToString::to_string);
            assert_eq!(told.as_deref(), taken_by, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_runtime_is_unknown_and_other_facts_are_reported() {
        let hangs = FaultPlan::none().stall("container_runtime", "*");
        let host = FakeHost::new().with_docker().with_faults(hangs);
        // `nodeletd` and the commands wait this long for the facts.
        let gathering = tokio::time::timeout(Duration::from_secs(30), gather(&host));
        let facts = gathering.await.expect("it comes to its end").unwrap();
        assert_eq!(facts.docker, None);
        let why = &facts.unknown["docker"];
        assert!(why.contains("no answer within 5s"), "{why}");
        let links = facts.links.expect("they are told");
        assert!(links.iter().any(|link| link.name == "eth0"), "{links:?}");
    }
}
