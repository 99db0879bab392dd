//! Services, packages, commands, groups, control groups, timers, and what the kernel has (settings, modules, links, packet filter, address
//! sets, virtual services): what these words mean.
//!
//! Contains the rules about names of units and packages, and about resources that only other programs make ([`only_absent`]). `timer` reads
//! a schedule and what runs then. `firewall_chain` reads the rules of a chain.
//!
//! Not here: unit files (`files`), docker's containers (`containers`), and how a resource is changed (`resource`). Start with [`lower`].

mod firewall_chain;
mod timer;

use firewall_chain::firewall_chain;
use timer::timer;

use crate::model::{Diagnostic, PhaseName, Span, SysctlKey, is_module_name, is_package_name};
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
            key: sysctl_key(call, options, findings)?,
            value: options.text_argument(1)?,
        })),
        SystemWord::KernelModule => {
            let name = options.text_argument(0)?;
            is_module(&name, call, findings)?;
            Some(Spec::KernelModule(KernelModuleSpec { name }))
        }
        SystemWord::Packages => {
            let names = options.texts_argument(0)?;
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
        SystemWord::FirewallChain => firewall_chain(call, options, findings),
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
            key: sysctl_key(call, options, findings)?,
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
        SystemWord::Command => command(call, options, findings),
        SystemWord::Timer => timer(call, options, phase, context.payload, findings),
    }
}

/// The key of a kernel setting, or a finding.
fn sysctl_key(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<SysctlKey> {
    match options.text_argument(0)?.parse::<SysctlKey>() {
        Ok(key) => Some(key),
        Err(error) => {
            let finding = Diagnostic::new("P0366", call.span.clone(), error.to_string());
            findings.push(finding.help(
                "write its path below /proc/sys with dots instead of slashes, for example \"net.ipv4.ip_forward\"; it has no wildcards",
            ));
            None
        }
    }
}

/// A finding for what is not the name of a kernel module.
fn is_module(name: &str, call: &Call, findings: &mut Vec<Diagnostic>) -> Option<()> {
    if is_module_name(name) {
        return Some(());
    }
    let message = format!(
        "`{}` is not the name of a kernel module",
        name.escape_debug()
    );
    findings.push(Diagnostic::new("P0367", call.span.clone(), message).help(
        "write one name as `lsmod` shows it: letters, digits, `_` and `-`, for example \"br_netfilter\"",
    ));
    None
}

/// A command. What an apply runs needs exactly one condition, because a second apply must change nothing.
fn command(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    let argv = options.texts_argument(0)?;
    let unless = options.texts("unless");
    has_program(&argv, call.span.clone(), findings)?;
    if let Some(argv) = &unless {
        has_program(argv, options.span("unless"), findings)?;
    }
    if options.has("creates") && unless.is_some() {
        findings.push(
            Diagnostic::new(
                "P0363",
                options.span("unless"),
                "the command has both `.creates` and `.unless`, and only `.creates` would be used",
            )
            .help(
                "remove one of them; .unless([\"sh\", \"-c\", \"…\"]) can test several conditions",
            ),
        );
        return None;
    }
    if call.lane == Lane::Steps && !options.has("creates") && unless.is_none() {
        findings.push(
            Diagnostic::new(
                "P0362",
                call.span.clone(),
                "the command would run at each apply, because nothing says when its work is done",
            )
            .help("add .creates(\"/…\") with a path that the command makes, or .unless([\"…\"]) with a command that ends with 0 when the work is done"),
        );
        return None;
    }
    Some(Spec::Command(CommandStep {
        argv,
        creates: options.text("creates").map(Into::into),
        unless: unless.unwrap_or_default(),
        seconds: options.seconds("timeout", 60, findings),
    }))
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
