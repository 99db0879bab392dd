//! The program `nodelet`, run as a user runs it.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, fcntl};

use crate::{fixtures, repository};

/// The program with a command line and an environment.
#[derive(Debug)]
pub struct Program {
    command: Command,
}

/// How the program answered.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code; 255 where a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Program {
    /// `nodelet` with arguments, in the repository, with nothing but the path in its environment.
    #[must_use]
    pub fn nodelet(arguments: &[&str]) -> Self {
        let mut command = Command::new(built());
        command
            .args(arguments)
            .current_dir(repository())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdout(Stdio::piped());
        Self { command }
    }

    /// `nodelet VERB` for the role, host and settings of the case `cp-1`, by absolute paths.
    #[must_use]
    pub fn for_cp_1(verb: &str, more: &[&str]) -> Self {
        let path = |path: PathBuf| path.display().to_string();
        let (role, config) = (
            path(repository().join("roles/pf9-kube")),
            path(fixtures("settings/cp-1.yaml")),
        );
        let facts = path(fixtures("hosts/cp-1.yaml"));
        let mut arguments = vec![
            verb, "--role", &role, "--config", &config, "--facts", &facts,
        ];
        arguments.extend(more);
        Self::nodelet(&arguments)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Redirects standard output to this file.
    #[must_use]
    pub fn into(mut self, file: std::fs::File) -> Self {
        self.command.stdout(file);
        self
    }

    /// Sets the current directory.
    #[must_use]
    pub fn in_directory(mut self, path: impl AsRef<Path>) -> Self {
        self.command.current_dir(path);
        self
    }

    /// `nodelet` with arguments as the user `nobody`, in the root directory; if the test does not run as root, as the test's user.
    /// `nobody` cannot enter root's directories, so the program is copied to `place`, a directory that all users can enter.
    ///
    /// # Panics
    /// It cannot be copied.
    #[must_use]
    pub fn as_unprivileged(place: &Path, arguments: &[&str]) -> Self {
        const NOBODY: u32 = 65534;
        let mut its = Self::nodelet(arguments);
        if nix::unistd::Uid::effective().is_root() {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(place, open).expect("the directory is ours");
            let program = place.join("nodelet");
            // A program that a process still has open for writing cannot be started, and each process that another thread of this test starts
            // holds what was open here until its own program runs. So another process copies it.
            let copied = Command::new("install").arg(built()).arg(&program).status();
            assert!(copied.is_ok_and(|status| status.success()), "no copy");
            let mut command = Command::new(program);
            command
                .args(arguments)
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdout(Stdio::piped());
            command.uid(NOBODY).gid(NOBODY);
            its = Self { command };
        }
        its.command.current_dir("/");
        its
    }

    /// Runs it and gives its peak memory, in KiB, at the time when it began to write its result.
    ///
    /// # Panics
    /// It cannot be started, or writes less than a page: it must still run when its memory is read.
    #[must_use]
    pub fn peak_memory(mut self) -> u64 {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built just now");
        let mut out = child.stdout.take().expect("it is piped");
        // With a pipe of one page, a program that writes more waits for the reader.
        fcntl(&out, FcntlArg::F_SETPIPE_SZ(4096)).expect("a pipe can be made small");
        out.read_exact(&mut [0])
            .expect("the program writes something");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))
            .expect("it is still there");
        std::io::copy(&mut out, &mut std::io::sink()).expect("the rest of it");
        child.wait().expect("it ends");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
        peak.expect("the program waits for its reader, so it has memory")
    }

    /// Runs it to its end with standard error redirected to `errors`; gives the exit code.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn code_with_errors_into(mut self, errors: impl Into<Stdio>) -> i32 {
        let output = self.command.stdin(Stdio::null()).stderr(errors).output();
        let status = output.expect("the program was built just now").status;
        status.code().unwrap_or(255)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It cannot be started, or its output is no text.
    #[must_use]
    pub fn answer(mut self) -> Answer {
        let child = self
            .command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built just now");
        let output = child
            .wait_with_output()
            .expect("what it writes can be read");
        let utf8 = |bytes| String::from_utf8(bytes).expect("the program writes text");
        Answer {
            code: output.status.code().unwrap_or(255),
            out: utf8(output.stdout),
            err: utf8(output.stderr),
        }
    }
}

/// The environment variable with the path of the program, if it is built already. `cargo xtask test` sets it.
const BUILT: &str = "NODELET_BUILT_PROGRAM";

/// Path of the program, built once per test process with the cargo that runs the test. A program of another
/// package has no `CARGO_BIN_EXE_…`. For this package alone, cargo may choose other features of dependencies and build them again, so a
/// program that is built already is preferred.
///
/// # Panics
/// It does not build.
fn built() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os(BUILT) {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "nodelet"])
            .current_dir(repository())
            .status()
            .expect("cargo runs this test, so it is there");
        assert!(built.success(), "`cargo build --package nodelet` failed");
        // This test is in `<target>/debug/deps`, the program two levels up.
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test
            .parent()
            .and_then(Path::parent)
            .expect("a test is in a profile's deps");
        profile.join("nodelet")
    })
}
