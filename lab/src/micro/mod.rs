//! A micro machine: a virtual machine that has a kernel, a shell, the programs under test and nothing else. It is up within
//! seconds, is emulated in software, and ends by itself.
//!
//! Labs share this machine's kernel and its version of control groups. Tests that need another kernel, but no systemd, no docker
//! and no disk, use a micro machine: [`Micro::prepare`] fetches emulator and kernel, and a test fills and runs a [`Machine`].
//!
//! Not here: the tests that run on it (`tests/lab/tests/micro`), and virtual machines with systemd (`topology::host`). Start with
//! [`Machine::run`].

pub(crate) mod initramfs;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::micro::initramfs::Archive;
use crate::progress::Progress;
use crate::setup::steps::{kernel, packages};
use crate::{command, debian};

const KERNEL: &str = "NODELET_MICRO_KERNEL";
const NODELET: &str = "NODELET_MICRO_NODELET";
const BUSYBOX: &str = "/bin/busybox";
/// `strip` and `ldd` on one program.
const TOOL: Duration = Duration::from_secs(60);
/// How many lines of the console an error quotes.
const QUOTED_LINES: usize = 25;

/// What micro machines are made from; passed to the tests in environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Micro {
    /// The directory with the kernel.
    pub kernel: PathBuf,
    /// The program under test; `nodeletd` lies beside it.
    pub nodelet: PathBuf,
}

impl Micro {
    /// Makes what is not there yet, with one line of progress per step, and gives the directory with the kernel.
    pub fn prepare(cache: &Cache) -> Result<PathBuf> {
        debian::check_machine()?;
        command::end_groups_on_interrupt()?;
        fs::create_dir_all(cache.root())
            .with_context(|| format!("cannot create {}", cache.root().display()))?;
        let progress = Progress::new(2);
        progress.step("packages of this machine", |announce| {
            packages::install(cache, packages::MACHINES, announce)
        })?;
        progress.step("kernel", |announce| kernel::unpack(cache, announce))
    }

    /// The environment variables that pass this to the tests.
    pub fn variables(&self) -> [(&'static str, OsString); 2] {
        [
            (KERNEL, self.kernel.clone().into()),
            (NODELET, self.nodelet.clone().into()),
        ]
    }

    /// Reads these variables.
    pub fn from_environment() -> Result<Self> {
        let path = |name| {
            env::var_os(name).map(PathBuf::from).with_context(|| {
                format!("{name} is not set; `cargo xtask test --only micro` sets it")
            })
        };
        Ok(Self {
            kernel: path(KERNEL)?,
            nodelet: path(NODELET)?,
        })
    }
}

/// The files of a micro machine that does not run yet. Its first process is `/init`.
#[derive(Debug)]
pub struct Machine {
    archive: Archive,
}

impl Machine {
    /// A machine with a shell and its tools in `/bin`, a console, and no `/init` yet.
    ///
    /// # Errors
    /// The shell cannot be read.
    pub fn new() -> Result<Self> {
        let mut machine = Self {
            archive: Archive::default(),
        };
        // The kernel opens the console for the first process, before that process could make the device.
        machine.archive.device("/dev/console", 5, 1);
        machine.copy(Path::new(BUSYBOX), BUSYBOX)?;
        let tools = command::text(Command::new(BUSYBOX).arg("--list"), TOOL)?;
        for tool in tools.lines().filter(|tool| *tool != "busybox") {
            machine.archive.link(&format!("/bin/{tool}"), BUSYBOX);
        }
        Ok(machine)
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) {
        self.archive.directory(path);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.archive.file(path, mode, content);
    }

    /// Adds programs of this machine, as pairs of the path here and the path there, with the libraries that they are linked with.
    /// `scratch` is for their copies without debug information, which would take most of the space.
    ///
    /// # Errors
    /// A program is not there, or is none that `strip` and `ldd` understand.
    pub fn programs(&mut self, programs: &[(&Path, &str)], scratch: &Path) -> Result<()> {
        let mut libraries = Vec::new();
        for (source, path) in programs {
            let bare = scratch.join("stripped");
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(&bare).arg(source);
            command::text(&strip, TOOL)?;
            self.copy(&bare, path)?;
            let listing = command::text(Command::new("ldd").arg(source), TOOL)?;
            libraries.extend(paths(&listing).map(str::to_owned));
        }
        libraries.sort();
        libraries.dedup();
        libraries
            .iter()
            .try_for_each(|library| self.copy(Path::new(library), library))
    }

    fn copy(&mut self, source: &Path, path: &str) -> Result<()> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.archive.file(path, 0o755, &bytes);
        Ok(())
    }

    /// Runs the machine until it turns itself off, for at most `limit`, and gives what it wrote to its console. Its files and its
    /// console stay in `directory`.
    ///
    /// # Errors
    /// It did not end in time, or the emulator failed; the error quotes the end of the console.
    pub fn run(self, kernel: &Path, directory: &Path, limit: Duration) -> Result<String> {
        let (files, console) = (directory.join("initramfs"), directory.join("console"));
        let write = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&files, &self.archive.finish())?;
        write(&console, b"")?;
        let mut emulator = Command::new("qemu-system-x86_64");
        emulator
            // Only software emulation: it is there on every machine, and fast enough for this.
            .args(["-accel", "tcg,thread=multi"])
            .args(["-smp", "2", "-m", "1G"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"])
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(&files)
            .arg("-serial")
            .arg(format!("file:{}", console.display()));
        let ended = command::text(&emulator, limit);
        let seen =
            fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
        let seen = String::from_utf8_lossy(&seen).replace('\r', "");
        if let Err(error) = ended {
            let lines: Vec<&str> = seen.lines().collect();
            let end = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
            bail!(
                "the micro machine: {error:#}; its console ends with:\n{}",
                end.join("\n")
            );
        }
        Ok(seen)
    }
}

/// The files that `ldd` names: `name => /path (address)`, or the loader's path alone.
fn paths(listing: &str) -> impl Iterator<Item = &str> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_program_is_linked_with() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            paths(listing).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}
