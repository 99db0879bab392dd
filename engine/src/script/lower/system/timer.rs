//! Timers: the schedule, and the program of the role that runs then.

use std::path::{Component, Path};

use crate::model::{Diagnostic, PhaseName};
use crate::resource::{RUNNABLE, Spec, TimerCommand, TimerSpec};
use crate::schedule::Schedule;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

/// A timer of this phase. `payload` is the role's payload on the host.
pub(super) fn timer(
    call: &Call,
    options: &Options<'_>,
    phase: &PhaseName,
    payload: &Path,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let name = options.text_argument(0)?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(fits) {
        findings.push(
            Diagnostic::new(
                "P0322",
                call.span.clone(),
                format!("`{name}` cannot be the name of a timer"),
            )
            .help(timer_name_help(&name)),
        );
        return None;
    }
    if options.has("absent") {
        return Some(Spec::Timer(TimerSpec {
            name,
            schedule: String::new(),
            run: String::new(),
            command: None,
        }));
    }
    let runs = options.has("run") || options.has("command");
    let (Some(schedule), true) = (options.text("schedule"), runs) else {
        findings.push(
            Diagnostic::new(
                "P0323",
                call.span.clone(),
                "a timer needs a schedule and something to run",
            )
            .help("add what is missing: .schedule(\"0 3 * * *\"), and .command([`${role.payload}/bin/…`]) for a program of the role or .run(\"etcd-backup\")"),
        );
        return None;
    };
    if let Err(error) = schedule.parse::<Schedule>() {
        let message = format!("`{schedule}` is not a schedule: {error}");
        findings.push(
            Diagnostic::new("P0324", options.span("schedule"), message).help(
                "write five fields: minute, hour, day of month, month and day of week; \"0 3 * * *\" means each day at 3:00",
            ),
        );
        return None;
    }
    if options.has("run") && options.has("command") {
        findings.push(
            Diagnostic::new(
                "P0344",
                options.span("command"),
                "the timer has both `.run` and `.command`, but a timer runs exactly one thing",
            )
            .help("remove one of them, or write a second timer for it"),
        );
        return None;
    }
    if let Some(argv) = options.texts("command") {
        return Some(Spec::Timer(TimerSpec {
            name,
            schedule,
            run: String::new(),
            command: Some(timer_command(argv, options, phase, payload, findings)?),
        }));
    }
    let run = options.text("run")?;
    if !RUNNABLE.contains(&run.as_str()) {
        findings.push(
            Diagnostic::new(
                "P0325",
                options.span("run"),
                format!("a timer cannot run `{run}`"),
            )
            .help(format!(
                "it can run {}; a program of the role runs with .command([program, argument, …])",
                RUNNABLE.join(", ")
            )),
        );
        return None;
    }
    Some(Spec::Timer(TimerSpec {
        name,
        schedule,
        run,
        command: None,
    }))
}

/// The program of the role that a timer runs.
fn timer_command(
    argv: Vec<String>,
    options: &Options<'_>,
    phase: &PhaseName,
    payload: &Path,
    findings: &mut Vec<Diagnostic>,
) -> Option<TimerCommand> {
    let program = argv.first().map_or("", String::as_str);
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let path = Path::new(program);
    let problem = if program.is_empty() {
        Some((
            "`.command` of the timer names no program".to_owned(),
            format!(
                "write the program as the first item, for example .command([{}, \"--all\"])",
                in_payload("", payload)
            ),
        ))
    } else if program.contains(char::is_whitespace) {
        Some((
            format!(
                "`.command` gets a program and its arguments as one text, {program:?}, and no shell splits it"
            ),
            format!("write .command([{}])", words_in_payload(program, payload)),
        ))
    } else if !path.starts_with(payload) || !path.components().all(is_plain) {
        Some((
            format!(
                "a timer cannot run `{program}`: the role's package does not contain it, so nothing verifies it"
            ),
            format!(
                "put a program into the payload, and write {}; it can start other programs",
                in_payload(program, payload)
            ),
        ))
    } else {
        None
    };
    if let Some((message, help)) = problem {
        findings.push(Diagnostic::new("P0345", options.span("command"), message).help(help));
        return None;
    }
    let seconds = options.seconds("timeout", TimerCommand::USUAL, findings);
    if seconds > TimerCommand::LONGEST {
        findings.push(
            Diagnostic::new(
                "P0346",
                options.span("timeout"),
                "a timer's command may take at most 30 minutes, because other timers wait for it",
            )
            .help(
                "write \"30m\" or less; longer work belongs in a service that the command starts",
            ),
        );
        return None;
    }
    Some(TimerCommand {
        phase: phase.clone(),
        argv,
        seconds,
        checksums: None,
    })
}

/// Help for a wrong name of a timer, with a name that the author may mean.
fn timer_name_help(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let rule = "use lower-case letters, digits and `-`";
    if parts.is_empty() {
        return rule.to_owned();
    }
    format!(
        "{rule}, for example \"{}\"",
        parts.join("-").to_ascii_lowercase()
    )
}

/// How a program of the payload is written: from the author's text, without the directory of the payload.
fn in_payload(program: &str, payload: &Path) -> String {
    let path = Path::new(program);
    let below = path.strip_prefix(payload).unwrap_or(path);
    let name = below.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let place = if below.is_relative() && below.components().all(is_plain) && !name.is_empty() {
        below.display().to_string()
    } else if name.is_empty() {
        "bin/example".to_owned()
    } else {
        format!("bin/{name}")
    };
    format!("`${{role.payload}}/{place}`")
}

/// A command in one text as a list, with its program in the payload.
fn words_in_payload(command: &str, payload: &Path) -> String {
    let mut words = command.split_whitespace();
    let program = in_payload(words.next().unwrap_or_default(), payload);
    let arguments = words.map(|word| format!("{word:?}"));
    let items: Vec<String> = std::iter::once(program).chain(arguments).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_suggested_in_the_payload() {
        let payload = Path::new("/opt/pf9/roles/r/current/payload");
        for (written, meant) in [
            ("", "`${role.payload}/bin/example`"),
            ("bin/prune", "`${role.payload}/bin/prune`"),
            ("/usr/bin/find", "`${role.payload}/bin/find`"),
            (
                "/opt/pf9/roles/r/current/payload/bin/a/../b",
                "`${role.payload}/bin/b`",
            ),
        ] {
            assert_eq!(in_payload(written, payload), meant, "{written}");
        }
        assert_eq!(
            words_in_payload("/opt/pf9/roles/r/current/payload/bin/prune --all", payload),
            "`${role.payload}/bin/prune`, \"--all\""
        );
    }

    #[test]
    fn a_name_is_suggested_in_the_letters_of_a_timer() {
        assert!(timer_name_help("Etcd_Backup").ends_with("\"etcd-backup\""));
        assert_eq!(
            timer_name_help("/"),
            "use lower-case letters, digits and `-`"
        );
    }
}
