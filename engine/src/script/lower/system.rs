//! Services, packages, commands, groups, control groups, timers, and what the kernel has (settings, modules, links, packet filter, address
//! sets, virtual services): what these words mean.
//!
//! Contains the rules about names of units and packages, and about resources that only other programs make ([`only_absent`]). `timer` reads
//! a schedule and what runs then.
//!
//! Not here: unit files (`files`), docker's containers (`containers`), and how a resource is changed (`resource`). Start with [`lower`].

mod timer;

use timer::timer;

use crate::model::{Diagnostic, PhaseName, Span, is_package_name};
use crate::resource::{
    CgroupSpec, CommandStep, FirewallChainsSpec, GroupSpec, IpsetsSpec, IpvsServicesSpec,
    KernelModuleSpec, LinkSpec, PackagesSpec, ServiceSpec, Spec, SysctlSnapshotSpec, SysctlSpec,
};
use crate::script::lower::context::LoweringContext;
use crate::script::lower::options::Options;
use crate::script::recorder::{Call, Lane};
use crate::script::variants::SystemWord;

pub(super) fn lower(
    word: SystemWord,
    call: &Call,
    options: &Options<'_>,
    context: &LoweringContext<'_>,
    phase: &PhaseName,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    match word {
        SystemWord::Service => service(call, options, findings),
        SystemWord::Sysctl => Some(Spec::Sysctl(SysctlSpec {
            key: options.text_argument(0)?,
            value: options.text_argument(1)?,
        })),
        SystemWord::KernelModule => Some(Spec::KernelModule(KernelModuleSpec {
            name: options.text_argument(0)?,
        })),
        SystemWord::Packages => {
            let names = options.texts_argument(0)?;
            if names.is_empty() {
                findings.push(
                    Diagnostic::new("P0353", call.span.clone(), "`packages` names no package")
                        .help("name at least one, or take the step out"),
                );
                return None;
            }
            are_packages(&names, call, findings)?;
            Some(Spec::Packages(PackagesSpec {
                names,
                directory: context.payload.join("debs"),
                checksums: None,
            }))
        }
        SystemWord::FirewallChains => {
            only_absent(call, options, findings)?;
            Some(Spec::FirewallChains(FirewallChainsSpec {
                prefix: options.text_argument(0)?,
                interface: options.text("interface"),
                keep_existing: options.has("keep_existing"),
                spared: Vec::new(),
            }))
        }
        SystemWord::Group => {
            only_absent(call, options, findings)?;
            Some(Spec::Group(GroupSpec {
                name: options.text_argument(0)?,
            }))
        }
        SystemWord::Ipsets => {
            only_absent(call, options, findings)?;
            Some(Spec::Ipsets(IpsetsSpec {
                prefix: options.text_argument(0)?,
            }))
        }
        SystemWord::IpvsServices => {
            only_absent(call, options, findings)?;
            Some(Spec::IpvsServices(IpvsServicesSpec {
                link: options.text_argument(0)?,
                spared: Vec::new(),
            }))
        }
        SystemWord::Cgroup => {
            only_absent(call, options, findings)?;
            Some(Spec::Cgroup(CgroupSpec {
                name: options.text_argument(0)?,
            }))
        }
        SystemWord::RestoreSysctl => Some(Spec::SysctlSnapshot(SysctlSnapshotSpec {
            key: options.text_argument(0)?,
            before: None,
        })),
        SystemWord::Link => {
            let carries_pods = options.has("carries_pods");
            if !carries_pods {
                only_absent(call, options, findings)?;
            }
            Some(Spec::Link(LinkSpec {
                name: options.text_argument(0)?,
                carries_pods,
            }))
        }
        SystemWord::Command => {
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
        SystemWord::Timer => timer(call, options, phase, context.payload, findings),
    }
}

/// A finding for each text that is not the name of a package.
fn are_packages(names: &[String], call: &Call, findings: &mut Vec<Diagnostic>) -> Option<()> {
    let before = findings.len();
    for name in names.iter().filter(|name| !is_package_name(name)) {
        let message = format!("`{}` is not the name of a package", name.escape_debug());
        findings.push(Diagnostic::new("P0333", call.span.clone(), message).help(
            "write a name as dpkg knows it: letters, digits, `+`, `-`, `.` and `:`, with a letter or digit at its beginning",
        ));
    }
    (findings.len() == before).then_some(())
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
    findings.push(
        Diagnostic::new(
            "P0307",
            span,
            "the list of program and arguments names no program",
        )
        .help("write the program as the first item, for example [\"touch\", \"/run/example\"]"),
    );
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
                format!("`{}` is not a unit name", name.escape_debug()),
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
    "use letters, digits and `:-_.@\\`, for example \"chrony.service\"";

/// A finding unless `.absent()` is there: for words about resources that other programs make.
pub(super) fn only_absent(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<()> {
    if options.has("absent") {
        return Some(());
    }
    let word = call.word.name;
    let message = format!(
        "`{word}` cannot make anything: other programs make such resources, and a phase can only remove them"
    );
    let help = if call.lane == Lane::Steps {
        // With `.absent()` alone, the next finding would be that a rollback cannot restore it.
        let argument = options.text_argument(0).map(|text| format!("{text:?}"));
        format!(
            "remove it when the role is removed: on_clean(|| {{ {word}({}).absent(); }});",
            argument.unwrap_or_default()
        )
    } else {
        "add .absent()".to_owned()
    };
    findings.push(Diagnostic::new("P0308", call.span.clone(), message).help(help));
    None
}

fn service(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    for (one, other) in [("started", "stopped"), ("enabled", "disabled")] {
        if options.has(one) && options.has(other) {
            findings.push(
                Diagnostic::new(
                    "P0309",
                    options.span(other),
                    format!("a service cannot be both {one} and {other}"),
                )
                .help(format!("remove .{one}() or .{other}()")),
            );
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
