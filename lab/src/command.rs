//! Programs run with a deadline: each in its own process group, which is killed as a whole when time is up.
//!
//! A recipe's group also holds the lock of its step as standard input (see [`crate::lock`]), so a build whose `xtask` was killed is
//! found and ended by the next one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Groups that are running now; an interrupt from the keyboard ends them (see [`end_groups_on_interrupt`]).
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

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
        let groups = GROUPS
            .lock()
            .map(|groups| groups.clone())
            .unwrap_or_default();
        groups.into_iter().for_each(kill_group);
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
pub fn streaming(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let what = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    wait(&mut child, limit, &what)
}

/// Kills a process group; a group that is gone already is fine.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(leader) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

struct Group(u32);

impl Group {
    fn enter(child: &Child) -> Self {
        if let Ok(mut groups) = GROUPS.lock() {
            groups.push(child.id());
        }
        Self(child.id())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(mut groups) = GROUPS.lock() {
            groups.retain(|group| *group != self.0);
        }
    }
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

fn wait(child: &mut Child, limit: Duration, what: &str) -> Result<ExitStatus> {
    let _group = Group::enter(child);
    match poll(limit, || child.try_wait().transpose()) {
        Some(status) => status.with_context(|| format!("cannot wait for {what}")),
        None => {
            kill_group(child.id());
            let _ = child.wait();
            bail!(
                "{what} did not end within {} s and was killed",
                limit.as_secs()
            )
        }
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
pub fn output(command: &mut Command, input: Option<&[u8]>, limit: Duration) -> Result<Output> {
    let what = describe(command);
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let (pipe_in, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        if let (Some(mut pipe), Some(bytes)) = (pipe_in, input) {
            // A program that ends without reading its input is judged by its exit status, not by the broken pipe.
            scope.spawn(move || drop(pipe.write_all(bytes)));
        }
        let stdout = scope.spawn(|| drain(out));
        let stderr = scope.spawn(|| drain(err));
        let status = wait(&mut child, limit, &what)?;
        Ok(Output {
            status,
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Like [`output`], but failure is an error that quotes the program's standard error, and success gives its trimmed standard
/// output.
pub fn text(command: &mut Command, limit: Duration) -> Result<String> {
    let output = output(command, None, limit)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            describe(command),
            output.status,
            words.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `command` (called `what` in errors) with everything it prints in the file `log`, and the lock of its step as standard input.
pub(crate) fn logged(
    command: &mut Command,
    what: Option<&str>,
    log: &Path,
    lock: Stdio,
    limit: Duration,
    started: impl FnOnce(u32),
) -> Result<()> {
    let what = what.map_or_else(|| describe(command), str::to_owned);
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    command
        .stdin(lock)
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    started(child.id());
    let status = wait(&mut child, limit, &what).with_context(|| tail(log))?;
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
    fn passes_input_and_collects_output() {
        let output = output(
            &mut Command::new("cat"),
            Some(b"x"),
            Duration::from_secs(10),
        )
        .expect("cat runs");
        assert_eq!(output.stdout, b"x");
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
