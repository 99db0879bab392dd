//! Programs run with a deadline: each in its own process group (see [`child_process`]), which is killed as a whole when time is up.
//! Only [`interruptible`] runs a program in our own group, because it needs the terminal.
//!
//! A recipe's group also holds the lock of its step as standard input (see [`crate::lock`]), so a build whose `xtask` was killed is
//! found and ended by the next one.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use child_process::{Expression, Guard, Running, Sink, cmd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Guards of groups. An interrupt from the keyboard drops them, and so ends those that are running (see [`end_groups_on_interrupt`]).
static GROUPS: Mutex<Vec<Guard>> = Mutex::new(Vec::new());

/// Whether the handler of interrupts is installed.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Whether this program goes on after an interrupt.
static OUTLIVES: AtomicBool = AtomicBool::new(false);

/// Whether there was an interrupt.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a command may take to end after an interrupt.
const GRACE: Duration = Duration::from_secs(5);

/// How many lines of a log an error quotes.
const QUOTED_LINES: usize = 15;

/// Ends every running group when the user presses Ctrl-C. They are not in the terminal's foreground group, so the terminal does not
/// end them. Each part that starts groups calls this; the handler is installed once per program.
pub fn end_groups_on_interrupt() -> Result<()> {
    if LISTENS.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::Relaxed);
        if let Ok(mut groups) = GROUPS.lock() {
            groups.clear();
        }
        if !OUTLIVES.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for interrupts")
}

/// From now on an interrupt ends the running groups but not this program, because it has to clean up first.
pub fn outlive_interrupts() {
    OUTLIVES.store(true, Ordering::Relaxed);
}

/// True after an interrupt: running commands have been ended, and no more are to be started.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A name that no other run on this machine has.
pub(crate) fn unique() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    format!(
        "{}-{}",
        std::process::id(),
        since.unwrap_or_default().as_nanos()
    )
}

/// Runs `command` with our own standard streams until it ends or we are interrupted. Gives `None` after an interrupt, which also
/// ends the command. No other handler of interrupts may be installed in this program.
pub(crate) fn interruptible(command: &mut Command) -> Result<Option<ExitStatus>> {
    let what = describe(command);
    let (tell, told) = mpsc::channel();
    let interrupted = tell.clone();
    ctrlc::set_handler(move || drop(interrupted.send(None)))
        .context("cannot listen for interrupts")?;
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let id = child.id();
    thread::spawn(move || drop(tell.send(Some(child.wait()))));
    let Some(ended) = told
        .recv()
        .context("the thread that waits for the command has ended")?
    else {
        if let Ok(id) = i32::try_from(id) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = told.recv_timeout(GRACE);
        return Ok(None);
    };
    ended
        .map(Some)
        .with_context(|| format!("cannot wait for {what}"))
}

/// Runs `command` with our own standard streams, in a process group that an interrupt or the deadline kills as a whole.
pub fn streaming(command: &Command, limit: Duration) -> Result<ExitStatus> {
    let what = describe(command);
    let running = child_process::start(&expression(command).stdin_null())
        .with_context(|| format!("cannot start {what}"))?;
    Ok(attend(running, &[], limit, &what)?.status)
}

/// Calls `probe` until it gives a value, with growing pauses, for at most `limit`. `None` when time is up.
pub fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

/// Attends a started program, whose group an interrupt or the deadline kills as a whole.
fn attend(running: Running, input: &[u8], limit: Duration, what: &str) -> Result<Output> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut out = |part: &[u8]| stdout.extend_from_slice(part);
    let mut err = |part: &[u8]| stderr.extend_from_slice(part);
    let status = attend_with(running, input, limit, what, [&mut out, &mut err])?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// The same, with what the program prints as it comes.
fn attend_with(
    running: Running,
    input: &[u8],
    limit: Duration,
    what: &str,
    sinks: [Sink<'_>; 2],
) -> Result<ExitStatus> {
    if let Ok(mut groups) = GROUPS.lock() {
        groups.retain(Guard::holds);
        groups.push(running.guard());
    }
    let status = running
        .attend(input, limit, None, sinks)
        .with_context(|| format!("cannot wait for {what}"))?;
    status.with_context(|| {
        let limit = limit.as_secs();
        format!("{what} did not end within {limit} s and was killed")
    })
}

/// The same program with the same arguments, environment and directory. Its streams are those of this program.
fn expression(command: &Command) -> Expression {
    let mut all = cmd(command.get_program(), command.get_args());
    for (name, value) in command.get_envs() {
        all = match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    match command.get_current_dir() {
        Some(directory) => all.dir(directory),
        None => all,
    }
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    let mut line = words.join(" ");
    if let Some((end, _)) = line.char_indices().nth(160) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Runs `command` with `input` on its standard input and collects what it prints.
pub fn output(command: &Command, input: Option<&[u8]>, limit: Duration) -> Result<Output> {
    let what = describe(command);
    let running = child_process::piped(&expression(command), input.is_some())
        .with_context(|| format!("cannot start {what}"))?;
    attend(running, input.unwrap_or_default(), limit, &what)
}

/// Runs `command` without input, and gives each line that it prints to `each` as it comes, from both of its streams.
///
/// # Errors
/// The program does not start, or does not end within `limit`.
pub fn lines(command: &Command, limit: Duration, each: impl FnMut(&str)) -> Result<ExitStatus> {
    let what = describe(command);
    let running = child_process::piped(&expression(command), false)
        .with_context(|| format!("cannot start {what}"))?;
    let each = RefCell::new(each);
    let (mut of_stdout, mut of_stderr) = (Lines::default(), Lines::default());
    let mut out = |part: &[u8]| of_stdout.push(part, &mut *each.borrow_mut());
    let mut err = |part: &[u8]| of_stderr.push(part, &mut *each.borrow_mut());
    let status = attend_with(running, &[], limit, &what, [&mut out, &mut err]);
    for rest in [of_stdout, of_stderr] {
        rest.end(&mut *each.borrow_mut());
    }
    status
}

/// The longest line in bytes that is waited for. A longer one is given in parts.
const LONGEST_LINE: usize = 16 * 1024;

/// Divides what comes in parts into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, part: &[u8], each: &mut impl FnMut(&str)) {
        for byte in part {
            if *byte == b'\n' || self.rest.len() == LONGEST_LINE {
                each(&String::from_utf8_lossy(&self.rest));
                self.rest.clear();
            }
            if *byte != b'\n' {
                self.rest.push(*byte);
            }
        }
    }

    /// Gives the last line if no line end came after it.
    fn end(self, each: &mut impl FnMut(&str)) {
        if !self.rest.is_empty() {
            each(&String::from_utf8_lossy(&self.rest));
        }
    }
}

/// Like [`output`], but failure is an error that quotes the program's standard error, and success gives its trimmed standard
/// output.
pub fn text(command: &Command, limit: Duration) -> Result<String> {
    let output = output(command, None, limit)?;
    let status = output.status;
    check(&output, || {
        format!("{} failed ({status})", describe(command))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Fails with `what` and the program's standard error if the program has failed.
pub fn check(output: &Output, what: impl FnOnce() -> String) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{}: {}", what(), said.trim())
}

/// Runs `command` (called `what` in errors) with everything it prints in the file `log`, and the lock of its step as standard input.
pub(crate) fn logged(
    command: &Command,
    what: Option<&str>,
    log: &Path,
    lock: File,
    limit: Duration,
    started: impl FnOnce(u32),
) -> Result<()> {
    let what = what.map_or_else(|| describe(command), str::to_owned);
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let command = expression(command)
        .stdin_file(lock)
        .stderr_to_stdout()
        .stdout_file(file);
    let running = child_process::start(&command).with_context(|| format!("cannot start {what}"))?;
    started(running.id());
    let status = attend(running, &[], limit, &what)
        .with_context(|| tail(log))?
        .status;
    if !status.success() {
        bail!("{what} failed ({status}). {}", tail(log));
    }
    Ok(())
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  | ");
    format!(
        "The whole output is in {}; it ends with:\n  | {last}",
        log.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_the_whole_group_at_the_deadline() {
        let before = Instant::now();
        // The grandchild holds the pipes open: if it survived the kill, reading would take 30 s.
        let result = output(
            Command::new("sh").args(["-c", "sleep 30 & wait"]),
            None,
            Duration::from_millis(100),
        );
        assert!(
            result
                .expect_err("must time out")
                .to_string()
                .contains("was killed")
        );
        assert!(before.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn input_is_passed_and_output_collected() {
        let output =
            output(&Command::new("cat"), Some(b"x"), Duration::from_secs(10)).expect("cat runs");
        assert_eq!(output.stdout, b"x");
    }

    #[test]
    fn lines_of_both_streams_are_given_one_by_one() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'a\\n\\nb'; printf 'c\\n' >&2; exit 3"]);
        let mut lines = Vec::new();
        let status = super::lines(&command, Duration::from_secs(10), |line| {
            lines.push(line.to_owned());
        });
        assert_eq!(status.expect("sh runs").code(), Some(3));
        lines.sort();
        assert_eq!(lines, ["", "a", "b", "c"]);
    }

    #[test]
    fn a_line_without_an_end_is_given_in_parts() {
        let (mut lines, mut given) = (Lines::default(), Vec::new());
        lines.push(&vec![b'x'; LONGEST_LINE + 1], &mut |line: &str| {
            given.push(line.len());
        });
        lines.end(&mut |line: &str| given.push(line.len()));
        assert_eq!(given, [LONGEST_LINE, 1]);
    }

    #[test]
    fn failure_quotes_the_program() {
        let error = text(
            Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"]),
            Duration::from_secs(10),
        );
        assert!(
            error
                .expect_err("must fail")
                .to_string()
                .contains("no such luck")
        );
    }
}
