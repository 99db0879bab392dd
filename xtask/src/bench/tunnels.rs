//! pf9-comms beside nginx, HAProxy and stunnel as tunnels of a host, and beside no tunnel.
//!
//! `programs` has their configurations. What goes through them is made by `agents/comms/examples/traffic`.

mod programs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Cache, command};

use super::figures::{Figure, Target, Unit, median};
use crate::nodelet;
use programs::{
    Ingress, LOCAL, Programs, Running, SERVICE, TUNNELS, Tunnel, memory, processor_time,
};

/// Time for one measurement.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes that are carried in each direction.
const BYTES: u64 = 1_000_000_000;
const MESSAGES: u32 = 5000;
const CONNECTIONS: u32 = 1000;
/// So many connections before those that are counted.
const FIRST: &str = "20";

/// What is wanted of processor time and of the rest, and of memory: our median by that of the best peer.
const PROCESSOR: Target = ratio(0.85);
const TIME: Target = Target::Ratio {
    at_most: 1.05,
    goal: None,
};
const MEMORY: Target = ratio(0.6);

const fn ratio(goal: f64) -> Target {
    Target::Ratio {
        at_most: 1.05,
        goal: Some(goal),
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Processor { way: &'static str, streams: u8 },
    Seconds { way: &'static str, streams: u8 },
    Ping { hundredth: u8 },
    Connection { is_full: bool },
    Idle { tunnels: u32 },
}

const WAYS: [&str; 2] = ["down", "up"];
const STREAMS: [u8; 2] = [1, 8];
const IDLE: [u32; 2] = [1000, 5000];

impl What {
    fn all() -> Vec<Self> {
        let carried = || {
            let of_way = |way| STREAMS.map(|streams| (way, streams));
            WAYS.into_iter().flat_map(of_way)
        };
        let processor = carried().map(|(way, streams)| Self::Processor { way, streams });
        let seconds = carried().map(|(way, streams)| Self::Seconds { way, streams });
        let ping = [50, 99].map(|hundredth| Self::Ping { hundredth });
        let connection = [true, false].map(|is_full| Self::Connection { is_full });
        let idle = IDLE.map(|tunnels| Self::Idle { tunnels });
        processor
            .chain(seconds)
            .chain(ping)
            .chain(connection)
            .chain(idle)
            .collect()
    }

    fn title(self) -> String {
        let carried = |way: &str, streams: u8| match streams {
            1 => format!("1 stream {way}"),
            more => format!("{more} streams {way}"),
        };
        match self {
            Self::Processor { way, streams } => {
                format!("processor seconds per GB, {}", carried(way, streams))
            }
            Self::Seconds { way, streams } => format!("seconds per GB, {}", carried(way, streams)),
            Self::Ping { hundredth: 50 } => "1 KiB there and back: median in µs".to_owned(),
            Self::Ping { hundredth } => {
                format!("1 KiB there and back: {hundredth}th percentile in µs")
            }
            Self::Connection { is_full: true } => {
                "processor ms per connection with a full handshake".to_owned()
            }
            Self::Connection { is_full: false } => {
                "processor ms per connection with a resumed session".to_owned()
            }
            Self::Idle { tunnels } => format!("KiB (PSS) per idle tunnel, {tunnels} of them"),
        }
    }

    fn target(self) -> Target {
        match self {
            Self::Processor { .. } | Self::Connection { .. } => PROCESSOR,
            Self::Seconds { .. } | Self::Ping { .. } => TIME,
            Self::Idle { .. } => MEMORY,
        }
    }
}

type Samples = BTreeMap<(What, Tunnel), Vec<f64>>;

/// Builds what is measured, and installs the peers.
///
/// # Errors
/// Something does not build, or apt cannot install the peers.
pub(super) fn build() -> Result<(PathBuf, PathBuf)> {
    lab::install_packages_for_bench(&Cache::locate()?)?;
    let comms = nodelet::build_program("comms", "pf9-comms")?;
    let traffic = nodelet::build_example("comms", "traffic")?;
    Ok((comms, traffic))
}

/// Measures so many repetitions; who begins changes from one to the next. Gives our figures beside those of the best peer, and a table with the medians of all.
///
/// # Errors
/// A program does not start, or a tunnel fails.
pub(super) fn measure(repetitions: usize) -> Result<(Vec<Figure>, String)> {
    let (comms, traffic) = build()?;
    let programs = Programs::new(comms, traffic)?;
    let _service = programs.service()?;
    let _resumes = programs.ingress(Ingress::Resumes)?;
    let _forgets = programs.ingress(Ingress::Forgets)?;
    let mut samples = Samples::new();
    for number in 0..repetitions {
        let mut order = TUNNELS;
        order.rotate_left(number % TUNNELS.len());
        for tunnel in order {
            let measured = one(&programs, tunnel)
                .with_context(|| format!("cannot measure {}", tunnel.name()))?;
            for (what, value) in &measured {
                samples.entry((*what, tunnel)).or_default().push(*value);
            }
            println!(
                "[{}/{repetitions}] {}: {}",
                number + 1,
                tunnel.name(),
                short(&measured)
            );
        }
    }
    Ok((figures(&samples), table(&samples)))
}

fn short(measured: &[(What, f64)]) -> String {
    let values = measured.iter().map(|(_, value)| format!("{value:.2}"));
    values.collect::<Vec<_>>().join(" ")
}

/// All measurements of one tunnel.
fn one(programs: &Programs, tunnel: Tunnel) -> Result<Vec<(What, f64)>> {
    let mut all = Vec::new();
    let port = match tunnel {
        Tunnel::None => SERVICE,
        _ => LOCAL,
    }
    .to_string();
    let running = programs.tunnel(tunnel, Ingress::Resumes)?;
    let run = |arguments: &[&str]| command::text(&programs.client(arguments), LIMIT);
    run(&["connect", &port, FIRST])?;
    let gigabytes = BYTES as f64 / 1e9;
    for way in WAYS {
        for streams in STREAMS {
            let before = running.as_ref().map(processor_time).transpose()?;
            let seconds = run(&[way, &port, &streams.to_string(), &BYTES.to_string()])?;
            let seconds: f64 = seconds.trim().parse().context("no seconds")?;
            all.push((What::Seconds { way, streams }, seconds / gigabytes));
            if let Some((running, before)) = running.as_ref().zip(before) {
                let used = processor_time(running)? - before;
                all.push((What::Processor { way, streams }, used / gigabytes));
            }
        }
    }
    let ping = run(&["ping", &port, &MESSAGES.to_string()])?;
    for (hundredth, value) in [50, 99].into_iter().zip(ping.split_whitespace()) {
        let value = value.parse().context("no microseconds")?;
        all.push((What::Ping { hundredth }, value));
    }
    let Some(running) = running else {
        return Ok(all);
    };
    let is_full = false;
    all.push((
        What::Connection { is_full },
        connections(programs, &running, Ingress::Resumes)?,
    ));
    drop(running);
    let forgets = programs.tunnel(tunnel, Ingress::Forgets)?;
    let forgets = forgets.context("there is a tunnel")?;
    let is_full = true;
    all.push((
        What::Connection { is_full },
        connections(programs, &forgets, Ingress::Forgets)?,
    ));
    drop(forgets);
    for tunnels in IDLE {
        let running = programs.tunnel(tunnel, Ingress::Resumes)?;
        let running = running.context("there is a tunnel")?;
        all.push((What::Idle { tunnels }, idle(programs, &running, tunnels)?));
    }
    Ok(all)
}

/// Processor time for each of many connections, in milliseconds.
fn connections(programs: &Programs, running: &Running, ingress: Ingress) -> Result<f64> {
    let port = LOCAL.to_string();
    let run = |count: &str| command::text(&programs.client(&["connect", &port, count]), LIMIT);
    run(FIRST)?;
    let (before, resumed) = (processor_time(running)?, programs.resumed(ingress)?);
    run(&CONNECTIONS.to_string())?;
    let used = processor_time(running)? - before;
    let resumed = programs.resumed(ingress)? - resumed;
    // A few in a hundred may come before a ticket.
    let as_wanted = match ingress {
        Ingress::Resumes => resumed >= CONNECTIONS * 95 / 100,
        Ingress::Forgets => resumed == 0,
    };
    if !as_wanted {
        bail!(
            "{resumed} of {CONNECTIONS} sessions were resumed, with an ingress that is `{ingress:?}`"
        );
    }
    Ok(used * 1000.0 / f64::from(CONNECTIONS))
}

/// Memory for each of many idle tunnels, in KiB.
fn idle(programs: &Programs, running: &Running, tunnels: u32) -> Result<f64> {
    let port = LOCAL.to_string();
    command::text(&programs.client(&["connect", &port, FIRST]), LIMIT)?;
    let before = memory(running)?;
    let mut holding = programs
        .client(&["idle", &port, &tunnels.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot hold tunnels")?;
    let mut says = String::new();
    if let Some(output) = holding.stdout.take() {
        BufReader::new(output).read_line(&mut says)?;
    }
    let after = memory(running);
    // The end of its input ends it.
    drop(holding.stdin.take());
    let ended = holding.wait()?;
    if says.trim() != "open" || !ended.success() {
        bail!("not all of {tunnels} tunnels were opened");
    }
    Ok((after? - before) / f64::from(tunnels))
}

/// The peer with the smallest median.
fn best(samples: &Samples, what: What) -> Option<Tunnel> {
    let middle = |tunnel: &Tunnel| median(samples.get(&(what, *tunnel))?);
    let peers = TUNNELS
        .into_iter()
        .filter(|its| !matches!(its, Tunnel::Comms | Tunnel::None));
    peers
        .filter_map(|tunnel| Some((middle(&tunnel)?, tunnel)))
        .min_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, tunnel)| tunnel)
}

fn figures(samples: &Samples) -> Vec<Figure> {
    let of = |what, tunnel| samples.get(&(what, tunnel)).cloned().unwrap_or_default();
    What::all()
        .into_iter()
        .map(|what| {
            let peer = best(samples, what);
            Figure {
                name: format!(
                    "{} (best peer: {})",
                    what.title(),
                    peer.map_or("none", Tunnel::name)
                ),
                unit: Unit::Number,
                ours: of(what, Tunnel::Comms),
                theirs: peer.map(|peer| of(what, peer)).unwrap_or_default(),
                target: what.target(),
            }
        })
        .collect()
}

/// The medians of all as a Markdown table.
fn table(samples: &Samples) -> String {
    let mut text = "| figure: median |".to_owned();
    for tunnel in TUNNELS {
        let _ = write!(text, " {} |", tunnel.name());
    }
    text.push_str("\n|---|---:|---:|---:|---:|---:|---:|\n");
    for what in What::all() {
        let _ = write!(text, "| {} |", what.title());
        for tunnel in TUNNELS {
            let middle = samples.get(&(what, tunnel)).and_then(|all| median(all));
            let shown = middle.map_or("—".to_owned(), |middle| format!("{middle:.2}"));
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_figures_stand_beside_the_best_peer() {
        let what = What::Idle { tunnels: 1000 };
        let samples = Samples::from([
            ((what, Tunnel::Comms), vec![10.0, 12.0]),
            ((what, Tunnel::Nginx), vec![40.0, 60.0]),
            ((what, Tunnel::HaProxy), vec![30.0]),
            // It is no peer.
            ((what, Tunnel::None), vec![1.0]),
        ]);
        assert_eq!(best(&samples, what), Some(Tunnel::HaProxy));
        let figures = figures(&samples);
        assert_eq!(figures.len(), What::all().len());
        let idle = figures.iter().find(|its| its.name.contains("1000"));
        let idle = idle.expect("it is there");
        assert!(idle.name.contains("HAProxy"), "{}", idle.name);
        assert_eq!(idle.theirs, [30.0]);
        assert_eq!(idle.met(), Some(true));
        let unmeasured = figures.iter().filter(|its| its.met().is_none()).count();
        assert_eq!(unmeasured, figures.len() - 1);
        let table = table(&samples);
        let row =
            "| KiB (PSS) per idle tunnel, 1000 of them | 11.00 | 50.00 | — | 30.00 | — | 1.00 |";
        assert!(table.contains(row), "{table}");
    }
}
