//! Units of a fake host.
//!
//! A unit is known once its file was loaded, stale when the file changed since, and active when a start found everything its file names.
//! The work of a unit's process is not simulated, except for docker (`docker::daemon`), which the containers need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::processes::main_pid;
use super::world::World;
use super::world::unit::Unit;
use crate::host::fake::fake_host::FakeHost;
use crate::host::{EntryKind, HostError, HostResult, Services, UnitState};

/// What the trait promises for verbs.
const DEADLINE: Duration = Duration::from_secs(90);

/// Directories of unit files, in order of precedence.
pub(crate) const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

#[async_trait::async_trait]
impl Services for FakeHost {
    async fn unit(&self, name: &str) -> HostResult<UnitState> {
        self.observe("unit", name, DEADLINE, |world| {
            let state = world.unit_state(name);
            match world.why_unit_is_unknown(name) {
                Some(why) if state.stale => {
                    let why = format!("its file is known after apply: {why}");
                    Err(HostError::service(format!("ask for unit {name}"), why))
                }
                _ => Ok(state),
            }
        })
        .await
    }

    async fn main_process(&self, name: &str) -> HostResult<Option<u32>> {
        self.observe("main_process", name, DEADLINE, |world| {
            Ok(world.unit_active(name).then(|| main_pid(name)))
        })
        .await
    }

    async fn continue_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("continue_unit", name, DEADLINE, |world| {
            let main = main_pid(name);
            world.stopped.retain(|process| process.pid != main);
            Ok(())
        })
        .await
    }

    async fn start_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("start_unit", name, DEADLINE, |world| world.start_unit(name))
            .await
    }

    async fn stop_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("stop_unit", name, DEADLINE, |world| {
            world.stop_unit(name);
            Ok(())
        })
        .await
    }

    async fn restart_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("restart_unit", name, DEADLINE, |world| {
            world.loaded_text("restart", name)?;
            world.stop_unit(name);
            world.start_unit(name)
        })
        .await
    }

    async fn reload_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("reload_unit", name, DEADLINE, |world| {
            let text = world.loaded_text("reload", name)?;
            if setting(&text, "ExecReload").is_some() && world.unit_active(name) {
                world.unit_reloaded(name);
                return Ok(());
            }
            world.stop_unit(name);
            world.start_unit(name)
        })
        .await
    }

    async fn set_unit_enabled(&self, name: &str, enabled: bool) -> HostResult<()> {
        self.mutate(
            "set_unit_enabled",
            format!("{name} {enabled}"),
            DEADLINE,
            |world| {
                world.reload_units();
                let verb = if enabled { "enable" } else { "disable" };
                match world.units.get_mut(name) {
                    Some(unit) => unit.enabled = enabled,
                    None if !enabled => {}
                    None => return Err(not_found(verb, name)),
                }
                Ok(())
            },
        )
        .await
    }

    async fn reset_failed_unit(&self, name: &str) -> HostResult<()> {
        self.mutate("reset_failed_unit", name, DEADLINE, |world| {
            if let Some(unit) = world.units.get_mut(name)
                && unit.active == "failed"
            {
                unit.active = "inactive".to_owned();
                unit.sub = "dead".to_owned();
            }
            Ok(())
        })
        .await
    }

    async fn reload_units(&self) -> HostResult<()> {
        self.mutate("reload_units", "", DEADLINE, |world| {
            world.reload_units();
            Ok(())
        })
        .await
    }

    async fn unit_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.observe("unit_log", name, DEADLINE, |world| {
            let state = world.unit_state(name);
            let line = format!("{name}: {} ({})\n", state.active, state.sub);
            Ok(if lines == 0 { String::new() } else { line })
        })
        .await
    }
}

impl World {
    /// Whether a unit runs.
    #[must_use]
    pub fn unit_active(&self, name: &str) -> bool {
        self.units.get(name).is_some_and(Unit::is_active)
    }

    /// Puts a unit file under /lib/systemd/system and loads it.
    pub fn unit(&mut self, name: &str, text: &str) {
        self.file(Path::new("/lib/systemd/system").join(name), text);
        self.reload_units();
    }

    /// The manager has begun to start the unit, as at boot, and it is not up yet.
    pub fn being_started(&mut self, name: &str) {
        self.stop_unit(name);
        if let Some(unit) = self.units.get_mut(name) {
            unit.active = "activating".to_owned();
            unit.sub = "start".to_owned();
            unit.job = true;
        }
    }

    pub(crate) fn unit_state(&self, name: &str) -> UnitState {
        let found = self.units.get(name).cloned();
        // A query for a unit that the manager does not know yet makes the manager look for the file.
        let unit = found.or_else(|| self.unit_text(name).map(Unit::loaded));
        let unit = unit.unwrap_or_else(|| Unit {
            active: "inactive".to_owned(),
            sub: "dead".to_owned(),
            ..Unit::default()
        });
        UnitState {
            loaded: unit.text.is_some(),
            stale: self.units.contains_key(name) && unit.text != self.unit_text(name),
            active: unit.active,
            sub: unit.sub,
            enabled: unit.enabled,
            invocation: unit.invocation,
            active_since: unit.active_since,
            active_for: unit
                .active_for
                .map(|(at, age)| age + self.elapsed().saturating_sub(at)),
            job: unit.job,
        }
    }

    /// Whether the unit is masked, so that it cannot be started (`systemctl mask`).
    fn is_masked(&self, name: &str) -> bool {
        let mut existing = DIRECTORIES
            .iter()
            .filter_map(|directory| self.tree.entry(&Path::new(directory).join(name)));
        let first = existing.next().map(|entry| entry.kind);
        first == Some(EntryKind::Symlink("/dev/null".to_owned()))
    }

    pub(crate) fn start_unit(&mut self, name: &str) -> HostResult<()> {
        if self.is_masked(name) {
            let why = format!("Unit {name} is masked.");
            return Err(HostError::service(format!("start {name}"), why));
        }
        let text = self.loaded_text("start", name)?;
        if self.unit_active(name) {
            return Ok(());
        }
        if let Err(reason) = self.can_start(name, &text) {
            let unit = self
                .units
                .entry(name.to_owned())
                .or_insert_with(|| Unit::loaded(text));
            unit.active = "failed".to_owned();
            unit.sub = "failed".to_owned();
            return Err(HostError::service(format!("start {name}"), reason));
        }
        let invocation = self.next_id();
        let (now, elapsed) = (self.now(), self.elapsed());
        let unit = self
            .units
            .entry(name.to_owned())
            .or_insert_with(|| Unit::loaded(text.clone()));
        unit.invocation = invocation;
        unit.job = false;
        let ends = setting(&text, "Type").as_deref() == Some("oneshot")
            && setting(&text, "RemainAfterExit").as_deref() != Some("yes");
        (unit.active, unit.sub) = if ends {
            ("inactive".to_owned(), "dead".to_owned())
        } else {
            ("active".to_owned(), "running".to_owned())
        };
        unit.active_since = (!ends).then_some(now);
        unit.active_for = (!ends).then_some((elapsed, Duration::ZERO));
        self.unit_started(name);
        Ok(())
    }

    pub(crate) fn stop_unit(&mut self, name: &str) {
        let Some(unit) = self.units.get_mut(name) else {
            return;
        };
        let ran = unit.is_active();
        // Also a process that a signal has stopped ends.
        self.stopped.retain(|process| !process.is_of_unit(name));
        unit.active = "inactive".to_owned();
        unit.sub = "dead".to_owned();
        unit.active_since = None;
        unit.active_for = None;
        unit.job = false;
        if unit.text.is_none() {
            self.units.remove(name);
        }
        if ran {
            self.unit_stopped(name);
        }
    }

    /// The units that have a file, whether the manager has loaded it or not.
    pub(crate) fn unit_files(&self) -> Vec<String> {
        DIRECTORIES
            .iter()
            .flat_map(|directory| self.tree.names(Path::new(directory)))
            .filter(|name| !name.ends_with(".d") && !name.ends_with(".wants"))
            .collect()
    }

    pub(crate) fn reload_units(&mut self) {
        let mut names = self.unit_files();
        names.extend(self.units.keys().cloned());
        for name in names {
            match self.unit_text(&name) {
                Some(text) => {
                    let unit = self
                        .units
                        .entry(name)
                        .or_insert_with(|| Unit::loaded(String::new()));
                    unit.text = Some(text);
                }
                // The manager keeps a running unit whose file went away, until it stops.
                None if self.unit_active(&name) => {
                    if let Some(unit) = self.units.get_mut(&name) {
                        unit.text = None;
                        unit.enabled = false;
                    }
                }
                None => {
                    self.units.remove(&name);
                }
            }
        }
    }

    /// The unit file that takes precedence, with its drop-ins, as it is on disk.
    pub(crate) fn unit_text(&self, name: &str) -> Option<String> {
        let file = DIRECTORIES
            .iter()
            .find_map(|directory| self.tree.text(Path::new(directory).join(name)));
        let mut text = file?;
        for directory in DIRECTORIES {
            let drop_ins = PathBuf::from(directory).join(format!("{name}.d"));
            for drop_in in self.tree.names(&drop_ins) {
                text += &self.tree.text(drop_ins.join(drop_in)).unwrap_or_default();
            }
        }
        Some(text)
    }

    /// Why the unit's file or one of its drop-ins is known after apply, if one is.
    fn why_unit_is_unknown(&self, name: &str) -> Option<String> {
        let drop_ins = DIRECTORIES.iter().flat_map(|directory| {
            let folder = Path::new(directory).join(format!("{name}.d"));
            let names = self.tree.names(&folder).into_iter();
            names.map(move |name| folder.join(name))
        });
        let files = DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name));
        let mut all = files.chain(drop_ins);
        all.find_map(|file| self.tree.why_unknown(&file).map(str::to_owned))
    }

    fn loaded_text(&self, verb: &str, name: &str) -> HostResult<String> {
        let text = match self.units.get(name) {
            Some(unit) => unit.text.clone(),
            None => self.unit_text(name),
        };
        text.ok_or_else(|| not_found(verb, name))
    }

    /// The program and the environment file that a unit's file names, as the file is on disk.
    pub(crate) fn unit_needs(&self, name: &str) -> Vec<PathBuf> {
        let text = self.unit_text(name).unwrap_or_default();
        let program = setting(&text, "ExecStart").and_then(|command| {
            let program = command.split_whitespace().next()?;
            Some(
                program
                    .trim_start_matches(['-', '@', '+', '!', ':'])
                    .to_owned(),
            )
        });
        program
            .into_iter()
            .chain(setting(&text, "EnvironmentFile"))
            .filter(|path| path.starts_with('/'))
            .map(PathBuf::from)
            .collect()
    }

    /// Whether what the unit file names is there.
    fn can_start(&self, name: &str, text: &str) -> Result<(), String> {
        if let Some(command) = setting(text, "ExecStart") {
            let program = command.split_whitespace().next().unwrap_or_default();
            let program = program.trim_start_matches(['-', '@', '+', '!', ':']);
            if program.starts_with('/') && self.tree.content(Path::new(program)).is_none() {
                return Err(format!("{program}: no such file (203/EXEC)"));
            }
        }
        if let Some(file) = setting(text, "EnvironmentFile")
            && !file.starts_with('-')
            && self.tree.content(Path::new(&file)).is_none()
        {
            return Err(format!("{file}: no such file (resources)"));
        }
        self.can_configure(name)
    }
}

/// The last value that a unit file gives to a key, drop-ins included.
fn setting(text: &str, key: &str) -> Option<String> {
    let values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    values
        .map(str::trim)
        .rfind(|value| !value.is_empty())
        .map(str::to_owned)
}

fn not_found(verb: &str, name: &str) -> HostError {
    HostError::service(format!("{verb} {name}"), format!("unit {name} not found"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Attributes, Files};

    const PATH: &str = "/etc/systemd/system/a.service";

    async fn write(host: &FakeHost, text: &str) {
        host.write(Path::new(PATH), text.as_bytes(), Attributes::root(0o644))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_unit_is_known_with_its_file_and_stale_after_a_change() {
        let host = FakeHost::new();
        assert!(host.start_unit("a.service").await.is_err());
        write(&host, "[Service]\nExecStart=/usr/bin/true\n").await;
        assert!(host.unit("a.service").await.unwrap().loaded);
        host.start_unit("a.service").await.unwrap();
        let first = host.unit("a.service").await.unwrap();
        assert!(first.is_active() && first.loaded && !first.stale && first.active_since.is_some());

        write(&host, "[Service]\nExecStart=/usr/bin/true --new\n").await;
        assert!(host.unit("a.service").await.unwrap().stale);
        host.reload_units().await.unwrap();
        host.restart_unit("a.service").await.unwrap();
        let second = host.unit("a.service").await.unwrap();
        assert!(!second.stale && second.invocation != first.invocation);
    }

    #[tokio::test]
    async fn a_missing_program_or_environment_fails_the_unit() {
        let host = FakeHost::new();
        for text in [
            "[Service]\nExecStart=/opt/none\n",
            "[Service]\nEnvironmentFile=/etc/none\n",
        ] {
            write(&host, text).await;
            host.reload_units().await.unwrap();
            assert!(host.start_unit("a.service").await.is_err());
            assert_eq!(host.unit("a.service").await.unwrap().active, "failed");
            host.reset_failed_unit("a.service").await.unwrap();
            assert_eq!(host.unit("a.service").await.unwrap().active, "inactive");
        }
    }

    #[tokio::test]
    async fn a_removed_file_leaves_the_running_unit_until_it_stops() {
        let host = FakeHost::new();
        write(&host, "[Service]\n").await;
        host.reload_units().await.unwrap();
        host.start_unit("a.service").await.unwrap();
        host.remove(Path::new(PATH)).await.unwrap();
        host.reload_units().await.unwrap();
        let orphan = host.unit("a.service").await.unwrap();
        assert!(orphan.is_active() && !orphan.loaded);
        host.stop_unit("a.service").await.unwrap();
        assert!(!host.unit("a.service").await.unwrap().is_active());
        host.stop_unit("never.service").await.unwrap();
    }
}
