//! Whether facts can be those of a host: a person may have written them.
//!
//! Only what the types of `model` do not say: forms of texts, and values that contradict each other. Not here: YAML (`fixture`), and
//! whether a host is good enough (`preflight`). Start with [`first_wrong`].

use super::model::Facts;
use super::parse;
use crate::yaml::Segment;

/// The path of a value that no host has, and what is wrong with it. The text completes "`hostname` …".
pub(super) type Wrong = (Vec<Segment>, String);

/// The first value that no host has.
pub(super) fn first_wrong(facts: &Facts) -> Option<Wrong> {
    hostname(facts)
        .or_else(|| clock(facts))
        .or_else(|| processors(facts))
        .or_else(|| default_route(facts))
        .or_else(|| disks(facts))
}

fn hostname(facts: &Facts) -> Option<Wrong> {
    let name = &facts.hostname;
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        format!("has a blank or a control character: {name:?}")
    } else {
        return None;
    };
    Some((vec![Segment::Key("hostname")], problem))
}

fn clock(facts: &Facts) -> Option<Wrong> {
    let clock = facts.clock.as_deref()?;
    humantime::parse_rfc3339(clock).is_err().then(|| {
        let problem = format!("is not a time such as 2026-01-31T12:00:00Z: {clock:?}");
        (vec![Segment::Key("clock")], problem)
    })
}

fn processors(facts: &Facts) -> Option<Wrong> {
    let list = facts.cpu_list.as_deref()?;
    let path = || vec![Segment::Key("cpu_list")];
    match (parse::cpu_count(list), facts.cpus) {
        (None, _) => Some((path(), format!("is not a list such as 0,2-3: {list:?}"))),
        (Some(count), Some(cpus)) if count == cpus => None,
        (Some(count), _) => Some((path(), format!("has {count} processors, unlike `cpus`"))),
    }
}

fn default_route(facts: &Facts) -> Option<Wrong> {
    let route = facts.default_route.as_ref()?;
    facts.links.as_ref()?;
    facts.link(&route.link).is_none().then(|| {
        let problem = format!("is not among `links`: {:?}", route.link);
        (
            vec![Segment::Key("default_route"), Segment::Key("link")],
            problem,
        )
    })
}

fn disks(facts: &Facts) -> Option<Wrong> {
    let mut disks = facts.disks.iter().enumerate();
    disks.find_map(|(index, disk)| {
        let path = |key| {
            vec![
                Segment::Key("disks"),
                Segment::Index(index),
                Segment::Key(key),
            ]
        };
        if disk.free > disk.total {
            let problem = format!("is {}, more than `total` ({})", disk.free, disk.total);
            return Some((path("free"), problem));
        }
        let mode = disk.mode.as_deref().filter(|mode| !is_mode(mode))?;
        let problem = format!("is not a mode in octal such as '0755': {mode:?}");
        Some((path("mode"), problem))
    })
}

/// Octal digits of the permissions, with the bits for set-user-id, set-group-id and sticky.
fn is_mode(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777)
}
