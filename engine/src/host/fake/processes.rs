//! Commands on a fake host.
//!
//! A registered program does what its behaviour says. A program that is on the PATH without a behaviour
//! succeeds silently. Anything else cannot be started.

use std::io::ErrorKind;
use std::path::Path;

use super::world::World;
use super::world::program::Behaviour;
use super::world::program::Program;
use crate::host::fake::fake_host::FakeHost;
use crate::host::{
    CommandOutput, CommandSpec, HostError, HostResult, Processes, StoppedProcess, StoppedShim,
};

/// Where programs are looked up.
pub(crate) const PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

#[async_trait::async_trait]
impl Processes for FakeHost {
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        let name = command.argv.first().map_or("", String::as_str);
        let Some(program) = self.with_world(|world| world.program(name)) else {
            return self
                .observe("run", command.display(), command.timeout, |_| {
                    Err(HostError::Spawn {
                        program: name.to_owned(),
                        source: ErrorKind::NotFound.into(),
                    })
                })
                .await;
        };
        let output = match program.0 {
            Behaviour::Changes(change) => {
                self.mutate("run", command.display(), command.timeout, |world| {
                    Ok(change(command, world))
                })
                .await
            }
            Behaviour::ReadsWorld(read) => {
                self.observe("run", command.display(), command.timeout, |world| {
                    Ok(read(command, world))
                })
                .await
            }
        };
        bounded(command, output?)
    }

    async fn stopped_processes(&self) -> HostResult<Vec<StoppedProcess>> {
        let deadline = std::time::Duration::from_secs(30);
        self.observe("stopped_processes", "all", deadline, |world| {
            Ok(world.stopped.iter().cloned().collect())
        })
        .await
    }

    async fn stopped_shims(&self) -> HostResult<Vec<StoppedShim>> {
        let deadline = std::time::Duration::from_secs(30);
        self.observe("stopped_shims", "all", deadline, |world| {
            Ok(world.stopped_shims.clone())
        })
        .await
    }

    async fn has_program(&self, name: &str) -> HostResult<bool> {
        self.observe(
            "has_program",
            name,
            std::time::Duration::from_secs(30),
            |world| Ok(world.program(name).is_some()),
        )
        .await
    }
}

/// The number of a unit's main process; the same at each start, because no test needs more.
pub(super) fn main_pid(unit: &str) -> u32 {
    let bytes = unit.bytes().map(u32::from);
    1000 + bytes.fold(0, |sum, byte| (sum * 31 + byte) % 30_000)
}

/// As much of the output as a real host would give.
fn bounded(command: &CommandSpec, mut output: CommandOutput) -> HostResult<CommandOutput> {
    if let Some(limit) = command.complete_output {
        return match output.stdout.len() > limit {
            true => Err(HostError::TooMuch {
                who: format!("`{}`", command.display()),
                limit,
            }),
            false => Ok(output),
        };
    }
    let mut start = output.stdout.len().saturating_sub(CommandOutput::LIMIT);
    while !output.stdout.is_char_boundary(start) {
        start += 1;
    }
    output.stdout.drain(..start);
    Ok(output)
}

impl World {
    /// Records a process that a signal has stopped, in this control group as `/proc/PID/cgroup` shows it. This changes nothing else: use a
    /// fault plan for the calls that the process no longer answers.
    pub fn stop_process(&mut self, group: &str) {
        self.stop_program("", group);
    }

    /// The same of a process with this name, which is no main process of a unit.
    pub fn stop_program(&mut self, name: &str, group: &str) {
        self.stopped.insert(StoppedProcess {
            pid: 1,
            name: name.to_owned(),
            groups: group.to_owned(),
        });
    }

    /// The same of the main process of a unit.
    pub fn stop_main_process(&mut self, unit: &str, name: &str) {
        self.stopped.insert(StoppedProcess {
            pid: main_pid(unit),
            name: name.to_owned(),
            groups: format!("0::/system.slice/{unit}\n"),
        });
    }

    /// Records that a signal has stopped the shim of a container, which has this process id. This changes nothing else: use a fault plan for
    /// the calls that docker no longer answers.
    pub fn stop_shim(&mut self, pid: u32, container: &str) {
        if let Some(its) = self.containers.get(container) {
            let container = its.id.clone();
            self.stopped_shims.push(StoppedShim { pid, container });
        }
    }

    /// Registers what a program does, by the name or path it is called with.
    pub fn program_does(&mut self, name: &str, program: Program) {
        self.programs.insert(name.to_owned(), program);
    }

    /// The program that a command of this name starts.
    pub(crate) fn program(&self, name: &str) -> Option<Program> {
        let is_there = |path: &Path| self.tree.content(path).is_some();
        let base = Path::new(name).file_name()?.to_str()?;
        if let Some(program) = self.programs.get(name) {
            return Some(program.clone());
        }
        let on_disk = match name.starts_with('/') {
            true => is_there(Path::new(name)),
            false => PATH
                .iter()
                .any(|directory| is_there(&Path::new(directory).join(name))),
        };
        let silent = || {
            Program::new(|_, _| CommandOutput {
                status: 0,
                stdout: String::new(),
                stderr: String::new(),
            })
        };
        on_disk.then(|| self.programs.get(base).cloned().unwrap_or_else(silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unknown_programs_cannot_be_started() {
        let host = FakeHost::new();
        let error = host
            .run(&CommandSpec::new(["frobnicate"]))
            .await
            .unwrap_err();
        assert!(matches!(error, HostError::Spawn { .. }));
        assert!(!host.has_program("frobnicate").await.unwrap());
        assert!(host.run_ok(&CommandSpec::new(["true"])).await.is_ok());
        assert!(host.run_ok(&CommandSpec::new(["false"])).await.is_err());
        assert_eq!(host.mutations(), 0);
    }

    #[tokio::test]
    async fn registered_programs_change_the_world() {
        let host = FakeHost::new().with_program(
            "mark",
            Program::new(|command, world| {
                world.file("/run/mark", &command.argv[1]);
                CommandOutput {
                    status: 0,
                    stdout: String::new(),
                    stderr: String::new(),
                }
            }),
        );
        host.run_ok(&CommandSpec::new(["mark", "x"])).await.unwrap();
        assert_eq!(
            host.with_world(|world| world.text("/run/mark")).as_deref(),
            Some("x")
        );
        let journal = host.journal();
        assert_eq!(
            (journal[0].name, journal[0].argument.as_str()),
            ("run", "mark x")
        );
    }
}
