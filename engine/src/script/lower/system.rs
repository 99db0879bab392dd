//! Services, kernel, packages, links, commands.

use std::path::{Component, Path};

use crate::model::{Diagnostic, PhaseName, Span};
use crate::resource::{
    CgroupSpec, CommandStep, FirewallChainsSpec, GroupSpec, IpsetsSpec, IpvsServicesSpec,
    KernelModuleSpec, LinkSpec, PackagesSpec, RUNNABLE, ServiceSpec, Spec, SysctlSnapshotSpec,
    SysctlSpec, TimerCommand, TimerSpec,
};
use crate::schedule::Schedule;
use crate::script::lower::context::ScriptContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    context: &ScriptContext<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    match call.word.name {
        "service" => service(call, options, findings),
        "sysctl" => Some(Spec::Sysctl(SysctlSpec {
            key: options.text_argument(0)?,
            value: options.text_argument(1)?,
        })),
        "kernel_module" => Some(Spec::KernelModule(KernelModuleSpec {
            name: options.text_argument(0)?,
        })),
        "packages" => {
            let names = options.texts_argument(0)?;
            if names.is_empty() {
                findings.push(
                    Diagnostic::new("P0353", call.span.clone(), "`packages` names no package")
                        .help("name at least one, or take the step out"),
                );
                return None;
            }
            Some(Spec::Packages(PackagesSpec {
                names,
                directory: context.payload.join("debs"),
                checksums: None,
            }))
        }
        "firewall_chains" => {
            only_absent(call, options, findings)?;
            Some(Spec::FirewallChains(FirewallChainsSpec {
                prefix: options.text_argument(0)?,
                interface: options.text("interface"),
                keep_existing: options.has("keep_existing"),
                spared: Vec::new(),
            }))
        }
        "group" => {
            only_absent(call, options, findings)?;
            Some(Spec::Group(GroupSpec {
                name: options.text_argument(0)?,
            }))
        }
        "ipsets" => {
            only_absent(call, options, findings)?;
            Some(Spec::Ipsets(IpsetsSpec {
                prefix: options.text_argument(0)?,
            }))
        }
        "ipvs_services" => {
            only_absent(call, options, findings)?;
            Some(Spec::IpvsServices(IpvsServicesSpec {
                link: options.text_argument(0)?,
                spared: Vec::new(),
            }))
        }
        "cgroup" => {
            only_absent(call, options, findings)?;
            Some(Spec::Cgroup(CgroupSpec {
                name: options.text_argument(0)?,
            }))
        }
        "restore_sysctl" => Some(Spec::SysctlSnapshot(SysctlSnapshotSpec {
            key: options.text_argument(0)?,
            before: None,
        })),
        "link" => {
            let carries_pods = options.has("carries_pods");
            if !carries_pods {
                only_absent(call, options, findings)?;
            }
            Some(Spec::Link(LinkSpec {
                name: options.text_argument(0)?,
                carries_pods,
            }))
        }
        "command" => {
            let argv = options.texts_argument(0)?;
            let unless = options.texts("unless");
            has_program(&argv, call.span.clone(), findings)?;
            if let Some(argv) = &unless {
                has_program(argv, options.span("unless"), findings)?;
            }
            Some(Spec::Command(CommandStep {
                argv,
                creates: options.text("creates").map(Into::into),
                unless: unless.unwrap_or_default(),
                seconds: options.seconds("timeout", 60, findings),
            }))
        }
        _ => None,
    }
}

/// A finding if a command has no program.
pub(super) fn has_program(
    argv: &[String],
    span: Span,
    findings: &mut Vec<Diagnostic>,
) -> Option<()> {
    if argv.first().is_some_and(|program| !program.is_empty()) {
        return Some(());
    }
    findings.push(Diagnostic::new("P0307", span, "a command needs a program"));
    None
}

/// Whether systemd accepts a text as the name of a unit, with or without its suffix.
pub(super) fn is_unit_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.@\\".contains(c);
    name.len() < 256 && name.chars().all(fits)
}

/// A unit's name with its suffix, `.service` if it has none, or a finding.
pub(super) fn unit_name(
    mut name: String,
    span: Span,
    findings: &mut Vec<Diagnostic>,
) -> Option<String> {
    if !is_unit_name(&name) {
        findings.push(
            Diagnostic::new(
                "P0305",
                span,
                format!("`{}` is no unit name", name.escape_debug()),
            )
            .help(UNIT_LETTERS),
        );
        return None;
    }
    if !name.contains('.') {
        name.push_str(".service");
    }
    Some(name)
}

/// Help for a wrong name of a unit.
pub(super) const UNIT_LETTERS: &str =
    "use letters, digits and `:-_.@\\`, for example pf9-kubelet.service";

/// A finding unless `.absent()` is there: for words about things that other programs make.
pub(super) fn only_absent(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<()> {
    if options.has("absent") {
        return Some(());
    }
    findings.push(
        Diagnostic::new(
            "P0308",
            call.span.clone(),
            format!("`{}` can only be made absent", call.word.name),
        )
        .help("add .absent()"),
    );
    None
}

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
                format!("`{name}` is no name of a timer"),
            )
            .help("small letters, digits and dashes are allowed"),
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
            .help("add .schedule(\"0 3 * * *\"), and .command([program, argument, …]) for a program of the role or .run(\"etcd-backup\")"),
        );
        return None;
    };
    if let Err(error) = schedule.parse::<Schedule>() {
        findings.push(Diagnostic::new(
            "P0324",
            options.span("schedule"),
            format!("`{schedule}` is no schedule: {error}"),
        ));
        return None;
    }
    if options.has("run") && options.has("command") {
        findings.push(
            Diagnostic::new(
                "P0344",
                options.span("command"),
                "a timer has either `.run` or `.command`",
            )
            .help("remove one of them; a second timer can run the other"),
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
    let bin = payload.join("bin").join("example");
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let path = Path::new(program);
    let problem = if program.is_empty() {
        Some((
            "a timer's command needs a program".to_owned(),
            format!("for example .command([\"{}\", \"--all\"])", bin.display()),
        ))
    } else if program.contains(char::is_whitespace) {
        Some((
            format!("`{program}` is no program: no shell splits it into words"),
            "write each word as an item of its own: [\"program\", \"argument\"]".to_owned(),
        ))
    } else if !path.starts_with(payload) || !path.components().all(is_plain) {
        Some((
            format!(
                "a timer cannot run `{program}`: it is not a program of the role's package, so its checksum is not known"
            ),
            format!(
                "write the path below `role.payload`, for example \"{}\"; that program can start others",
                bin.display()
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
                "a timer's command has at most 30 minutes: other timers wait for it",
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

fn service(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    for (one, other) in [("started", "stopped"), ("enabled", "disabled")] {
        if options.has(one) && options.has(other) {
            findings.push(Diagnostic::new(
                "P0309",
                options.span(other),
                format!("a service cannot be both {one} and {other}"),
            ));
            return None;
        }
    }
    if !options.has("started") && !options.has("stopped") {
        findings.push(
            Diagnostic::new(
                "P0310",
                call.span.clone(),
                "a service must be started or stopped",
            )
            .help("add .started() or .stopped()"),
        );
        return None;
    }
    let unit = unit_name(options.text_argument(0)?, call.span.clone(), findings)?;
    let enabled = match (options.has("enabled"), options.has("disabled")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    Some(Spec::Service(ServiceSpec {
        unit,
        started: options.has("started"),
        enabled,
        restart_inputs: options.restart_inputs(),
        reload_inputs: options.step_paths("reload_on"),
        runs: options
            .texts("runs")
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        checksums: None,
    }))
}
