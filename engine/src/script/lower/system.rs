//! Services, kernel, packages, links, commands.

use crate::model::Diagnostic;
use crate::resource::{
    CgroupSpec, CommandStep, FirewallChainsSpec, GroupSpec, IpsetsSpec, IpvsServicesSpec,
    KernelModuleSpec, LinkSpec, PackagesSpec, RUNNABLE, ServiceSpec, Spec, SysctlBeforeSpec,
    SysctlSpec, TimerSpec,
};
use crate::schedule::Schedule;
use crate::script::lower::context::ScriptContext;
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

pub(super) fn lower(
    call: &Call,
    options: &Options<'_>,
    around: &ScriptContext<'_>,
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
        "packages" => Some(Spec::Packages(PackagesSpec {
            names: options.texts_argument(0)?,
            directory: around.payload.join("debs"),
            checksums: None,
        })),
        "firewall_chains" => {
            only_absent(call, options, findings)?;
            Some(Spec::FirewallChains(FirewallChainsSpec {
                prefix: options.text_argument(0)?,
                interface: options.text("interface"),
                spares_earlier: options.has("spares_earlier"),
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
        "sysctl_as_before" => Some(Spec::SysctlBefore(SysctlBeforeSpec {
            key: options.text_argument(0)?,
            before: None,
        })),
        "timer" => timer(call, options, findings),
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
        _ => {
            let argv = options.texts_argument(0)?;
            if argv.is_empty() {
                findings.push(Diagnostic::new(
                    "P0307",
                    call.span.clone(),
                    "a command needs a program",
                ));
                return None;
            }
            Some(Spec::Command(CommandStep {
                argv,
                creates: options.text("creates").map(Into::into),
                unless: options.texts("unless").unwrap_or_default(),
                seconds: options
                    .duration("timeout")
                    .map_or(60, |timeout| timeout.as_secs()),
            }))
        }
    }
}

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

fn timer(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
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
        }));
    }
    let (Some(schedule), Some(run)) = (options.text("schedule"), options.text("run")) else {
        findings.push(
            Diagnostic::new(
                "P0323",
                call.span.clone(),
                "a timer needs a schedule and something to run",
            )
            .help("add .schedule(\"0 3 * * *\") and .run(\"etcd-backup\")"),
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
    if !RUNNABLE.contains(&run.as_str()) {
        findings.push(
            Diagnostic::new(
                "P0325",
                options.span("run"),
                format!("a timer cannot run `{run}`"),
            )
            .help(format!("it can run {}", RUNNABLE.join(", "))),
        );
        return None;
    }
    Some(Spec::Timer(TimerSpec {
        name,
        schedule,
        run,
    }))
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
    let mut unit = options.text_argument(0)?;
    if !unit.contains('.') {
        unit.push_str(".service");
    }
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
