//! `cargo xtask soak`: the suites that take minutes each, and the page with their results.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::snapshot::{EXCEPTIONS, KEPT, KEPT_BY_WORKERS, LEFT_OUT};
use lab::{Cache, Setup, Suites, command};

use crate::machine::{Machine, refuse_changes, wait_until_quiet};
use crate::nodelet::{self, Profile};
use crate::repository::{cargo, checkout};
use crate::temporary_lab::{suites, with_labs};

/// The page that `--write` writes.
const PAGE: &str = "docs/clean-slate.md";
/// The soaks whose figures are on that page.
const SLATES: &[&str] = &["clean_slate", "ten_kills"];
/// The variable that describes the machine and the commit to suites that write sections of pages.
const MEASURED_ON: &str = "NODELET_MEASURED_ON";
/// Time limit of one cargo command, which may run many soaks.
const LIMIT: Duration = Duration::from_secs(8 * 3600);

/// The options of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only the soaks whose name contains one of these; all soaks if none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Write the results to docs/clean-slate.md (if all of `clean_slate` and `ten_kills` are run), docs/fidelity.md and
    /// docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

/// The packages with soaks, and the targets they are in.
const TARGETS: &[(&str, &str)] = &[("lab", "hosts"), ("lab-suites", "soak")];

/// Targets of the package `behaviour` that `cargo xtask test` runs with a sample of their cases, and a soak with all cases.
const IN_FULL: &[&str] = &["crashes", "properties", "repair"];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.write {
        refuse_changes()?;
        wait_until_quiet()?;
    }
    let began = Instant::now();
    let machine = Machine::now();
    for target in IN_FULL.iter().filter(|target| arguments.wants(target)) {
        println!("==> behaviour: {target}, in full");
        let mut cargo = cargo();
        cargo
            .args(["test", "--workspace", "--test", target])
            .env("NODELET_SOAK", "1");
        if !command::streaming(&cargo, LIMIT)?.success() {
            bail!("a soak failed; repeat it with `cargo xtask soak {target}`");
        }
    }
    // If only such targets are named, no lab is needed.
    let named = !arguments.names.is_empty();
    if named
        && arguments
            .names
            .iter()
            .all(|name| IN_FULL.contains(&name.as_str()))
    {
        println!("All passed in {:.0} s.", began.elapsed().as_secs_f64());
        return Ok(ExitCode::SUCCESS);
    }
    let setup = Setup::run(&Cache::locate()?)?;
    // Beside nodelet, for the soaks with a management plane.
    nodelet::build_of_plane(Profile::Release)?;
    let record = setup
        .cache
        .root()
        .join(format!("logs/soak-{}.jsonl", std::process::id()));
    let suites = Suites {
        machine: Some(setup.machine()?),
        ..suites(&setup, nodelet::build(Profile::Release)?)
    };
    with_labs(setup, &suites.run, |_| {
        for (package, target) in TARGETS {
            println!("==> {package}: {target}");
            let mut cargo = soaks(target, arguments);
            cargo
                .env(MEASURED_ON, machine.describe_begin(&arguments.command()))
                .envs(suites.variables())
                .envs([Suites::record_to(&record)]);
            if !command::streaming(&cargo, LIMIT)?.success() {
                bail!(
                    "a soak failed; repeat it with `cargo xtask soak NAME`, and with NODELET_LAB_KEEP=1 to inspect its lab"
                );
            }
        }
        Ok(())
    })?;
    println!("All passed in {:.0} s.", began.elapsed().as_secs_f64());
    if arguments.write && SLATES.iter().all(|slate| arguments.wants(slate)) {
        let page = checkout().join(PAGE);
        let text = render(&machine.describe(&arguments.command()), &record)?;
        fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
        println!("The results are in {PAGE}.");
    }
    let _ = fs::remove_file(&record);
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn wants(&self, target: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| target.contains(name.as_str()))
    }

    fn command(&self) -> String {
        let write = if self.write { " --write" } else { "" };
        let names = self.names.join(" ");
        format!("cargo xtask soak{write} {names}")
            .trim_end()
            .to_owned()
    }
}

/// The ignored tests of a target, one after the other. As in `cargo xtask test`, the whole workspace is named, because cargo builds dependencies
/// again for another selection of packages.
fn soaks(target: &str, arguments: &Arguments) -> Command {
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--test", target, "--"])
        .args(["--ignored", "--nocapture", "--test-threads", "1"])
        .args(&arguments.names)
        .env("INSTA_UPDATE", "no");
    if arguments.write {
        command.env("UPDATE_GENERATED", "1");
    }
    command
}

/// The page: what was done, what was compared, what may differ and why.
fn render(machine: &str, record: &Path) -> Result<String> {
    let lines =
        fs::read_to_string(record).with_context(|| format!("cannot read {}", record.display()))?;
    let mut text = format!(
        "# Clean slate\n\n{INTRODUCTION}\n{machine}\n| scenario | items compared | differences |\n|---|---:|---:|\n"
    );
    let mut empty = BTreeSet::new();
    for line in lines.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("`{line}` is no record"))?;
        let scenario = value["scenario"]
            .as_str()
            .context("a record without name")?;
        let _ = writeln!(
            text,
            "| {scenario} | {} | {} |",
            value["items"], value["differences"]
        );
        let sections = value["empty"].as_array().into_iter().flatten();
        empty.extend(sections.filter_map(|section| section.as_str().map(str::to_owned)));
    }
    text.push_str("\n## What was not compared\n\n");
    if !empty.is_empty() {
        let empty: Vec<String> = empty.into_iter().collect();
        let _ = writeln!(
            text,
            "Empty before and after in at least one scenario, so nothing was compared there: {}.\n",
            empty.join(", ")
        );
    }
    let _ = writeln!(text, "{NOT_COMPARED}\n");
    for (what, _) in LEFT_OUT {
        let _ = writeln!(text, "- {what}");
    }
    text.push_str("\n## What may differ\n\n");
    for (path, why) in EXCEPTIONS {
        let _ = writeln!(text, "- `{path}`: {why}");
    }
    let _ = writeln!(text, "\n{MAY_LEAD}");
    for (node, kept) in [("master", KEPT), ("worker", KEPT_BY_WORKERS)] {
        let _ = writeln!(
            text,
            "\nKept by `clean` of a {node}, gone after `clean --purge`:\n"
        );
        for path in kept {
            let _ = writeln!(text, "- `{path}`");
        }
    }
    Ok(text)
}

const INTRODUCTION: &str = "\
A host before `nodelet apply` is compared with the same host after `apply` and `clean`. Written by `cargo xtask soak --write`, which fails if a
single line differs, so a page with a number other than 0 is never written. `cargo xtask test` asserts the bare host too.

These are compared on lab hosts: files below /etc, /usr, /opt, /var, /root, /run, /tmp, /home, /srv and /boot with kind, mode and owner, their
content with exceptions (below), and links; docker's settings, containers, images, volumes and networks; mounts, links, addresses, routes,
rules and network namespaces; iptables and ip6tables rules in their order and with duplicates; nftables, ipsets and IPVS where their tools are installed;
kernel settings and modules; packages, accounts, unit files and units with their state, control groups, crontabs. `lab/src/snapshot.sh` is the list.
";

const NOT_COMPARED: &str = "What is not named above is not compared, for example AppArmor profiles, queueing disciplines (qdisc) and forwarding entries of bridges (FDB). Of what is named, this is left out in every scenario, because it changes by itself or is not read:";

const MAY_LEAD: &str =
    "A directory that leads to one of these, or to what `clean` keeps, may be new.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_describes_the_present_comparison() {
        let page = fs::read_to_string(checkout().join(PAGE)).expect("the page is checked in");
        assert!(page.starts_with(&format!("# Clean slate\n\n{INTRODUCTION}")));
        assert!(page.contains("\n## What was not compared\n"));
        assert!(page.contains(&format!("\n{NOT_COMPARED}\n\n- ")));
        assert!(page.contains(&format!("\n{MAY_LEAD}\n")));
        for (what, _) in LEFT_OUT {
            assert!(page.contains(&format!("\n- {what}\n")), "{what}");
        }
        for (path, why) in EXCEPTIONS {
            assert!(page.contains(&format!("- `{path}`: {why}\n")), "{path}");
        }
    }

    #[test]
    fn a_page_has_a_line_for_each_scenario() {
        let directory = std::env::temp_dir().join(format!("soak-page-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        let record = directory.join("record.jsonl");
        fs::write(&record, "{\"scenario\": \"bare\", \"items\": 7, \"differences\": 2, \"empty\": [\"modules\"]}\n").expect("written");
        let text = render("- machine: m\n", &record).expect("rendered");
        fs::remove_dir_all(directory).expect("removed");
        assert!(
            text.contains("| bare | 7 | 2 |"),
            "what was counted: {text}"
        );
        assert!(
            text.contains("nothing was compared there: modules."),
            "{text}"
        );
        assert!(text.contains("- `/var/log`: logs"), "{text}");
    }
}
