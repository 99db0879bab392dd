//! Chains of the packet filter: their names, where they are, and the grammar of their rules.
//!
//! The grammar is small, so that each rule reads back from the kernel as it was written.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::model::{Diagnostic, Span, Value, closest};
use crate::resource::{
    FilterFamily, FirewallChainSpec, FirewallRule, RuleAction, RuleProtocol, Spec,
};
use crate::script::lower::options::Options;
use crate::script::recorder::Call;

/// How each name begins, so that a chain of the role is never one of another program.
const PREFIX: &str = "PF9-";
/// The kernel's limit for the name of a chain.
const NAME: usize = 28;
/// The kernel's limit for the name of a link.
const LINK: usize = 15;
/// Most rules of a chain.
const RULES: usize = 100;

/// The kernel's chains, by table.
const TABLES: [(&str, &[&str]); 2] = [
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
];

/// What a rule may contain.
const FIELDS: [&str; 7] = [
    "action",
    "source",
    "destination",
    "not_destination",
    "in_interface",
    "out_interface",
    "protocol",
];

/// A chain of this role.
pub(super) fn firewall_chain(
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let before = findings.len();
    let name = options.text_argument(0)?;
    let table = options.text_argument(1)?;
    let jump_from = options.text_argument(2)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    if rest.is_empty() || name.len() > NAME || !rest.chars().all(fits) {
        let message = format!("`{}` cannot be the name of a chain", name.escape_debug());
        findings.push(Diagnostic::new("P0374", call.span.clone(), message).help(format!(
            "begin it with {PREFIX}, so that it is no other program's chain, and use at most {NAME} letters, digits, `-` and `_`"
        )));
    }
    findings.extend(wrong_place(&table, &jump_from, &call.span));
    let mut rules = Vec::new();
    for (span, fields) in options.repeated_maps("rule") {
        match rule(&fields, &table, &jump_from) {
            Ok(rule) => rules.push((span, rule)),
            Err((message, help)) => {
                findings.push(Diagnostic::new("P0376", span, message).help(help));
            }
        }
    }
    if findings.len() > before {
        return None;
    }
    let family = family(&rules, call, findings)?;
    Some(Spec::FirewallChain(FirewallChainSpec {
        name,
        table,
        jump_from,
        first: options.has("first"),
        family,
        rules: rules.into_iter().map(|(_, rule)| rule).collect(),
    }))
}

/// A finding for a table or a chain that the kernel does not have.
fn wrong_place(table: &str, jump_from: &str, span: &Span) -> Option<Diagnostic> {
    let finding = |message| Diagnostic::new("P0375", span.clone(), message);
    let Some((_, chains)) = TABLES.iter().find(|(name, _)| *name == table) else {
        let message = format!("`{}` is not a table for chains", table.escape_debug());
        let names = TABLES.map(|(name, _)| name).join("\" or \"");
        return Some(finding(message).help(format!("write \"{names}\"")));
    };
    if chains.contains(&jump_from) {
        return None;
    }
    let message = format!(
        "the kernel has no chain `{}` in the table {table}",
        jump_from.escape_debug()
    );
    Some(finding(message).help(format!("write \"{}\"", chains.join("\" or \""))))
}

/// The family of all networks, IPv4 if no rule has one, or a finding for the first rule of the other family.
fn family(
    rules: &[(Span, FirewallRule)],
    call: &Call,
    findings: &mut Vec<Diagnostic>,
) -> Option<FilterFamily> {
    if rules.is_empty() || rules.len() > RULES {
        let message = format!("the chain has {} rules", rules.len());
        findings.push(
            Diagnostic::new("P0377", call.span.clone(), message).help(format!(
                "write 1 to {RULES} rules, each with .rule(#{{ … }})"
            )),
        );
        return None;
    }
    let mut first = None;
    for (span, rule) in rules {
        let networks = [rule.source, rule.destination, rule.not_destination];
        for network in networks.into_iter().flatten() {
            let its = match network {
                IpNet::V4(_) => FilterFamily::Ipv4,
                IpNet::V6(_) => FilterFamily::Ipv6,
            };
            if *first.get_or_insert(its) != its {
                let message = format!("{network} is of another family than the networks before");
                findings.push(Diagnostic::new("P0377", span.clone(), message).help(
                    "write a second chain for the other family: a chain has rules of IPv4 or of IPv6",
                ));
                return None;
            }
        }
    }
    Some(first.unwrap_or(FilterFamily::Ipv4))
}

/// A rule, or what is wrong with it and what to write instead.
fn rule(
    fields: &BTreeMap<String, Value>,
    table: &str,
    jump_from: &str,
) -> Result<FirewallRule, (String, String)> {
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let help = match closest(unknown, FIELDS) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("a rule has {}", FIELDS.join(", ")),
        };
        return Err((format!("a rule has no `{}`", unknown.escape_debug()), help));
    }
    let rule = FirewallRule {
        source: network(fields, "source")?,
        destination: network(fields, "destination")?,
        not_destination: network(fields, "not_destination")?,
        in_interface: link(fields, "in_interface")?,
        out_interface: link(fields, "out_interface")?,
        protocol: protocol(fields)?,
        action: action(fields)?,
    };
    let refused = |message: &str, help: &str| Err((message.to_owned(), help.to_owned()));
    if rule.destination.is_some() && rule.not_destination.is_some() {
        return refused(
            "a rule cannot have both `destination` and `not_destination`",
            "write two rules: the first returns for one of the networks",
        );
    }
    if rule.action == RuleAction::Masquerade && (table, jump_from) != ("nat", "POSTROUTING") {
        return refused(
            "the kernel masquerades only in POSTROUTING of the table nat",
            "write firewall_chain(NAME, \"nat\", \"POSTROUTING\")",
        );
    }
    if rule.action == RuleAction::Drop && table == "nat" {
        return refused(
            "the table nat sees only the first packet of a connection, and the kernel drops nothing there",
            "write firewall_chain(NAME, \"filter\", …)",
        );
    }
    if rule.in_interface.is_some() && ["OUTPUT", "POSTROUTING"].contains(&jump_from) {
        return refused(
            "packets of this chain did not come over a link",
            "remove `in_interface`, or use `out_interface`",
        );
    }
    if rule.out_interface.is_some() && ["PREROUTING", "INPUT"].contains(&jump_from) {
        return refused(
            "it is not decided yet over which link the packets of this chain go",
            "remove `out_interface`, or use `in_interface`",
        );
    }
    Ok(rule)
}

/// The text of a field.
fn text<'f>(
    fields: &'f BTreeMap<String, Value>,
    key: &str,
) -> Result<Option<&'f str>, (String, String)> {
    match fields.get(key) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Secret(_)
            | Value::Output(_),
        ) => Err((
            format!("`{key}` of a rule is not a text that is known now"),
            "write a text, or a setting that is a text".to_owned(),
        )),
    }
}

/// A network. The kernel shows one with host bits, and one of all addresses, otherwise than they were written.
fn network(fields: &BTreeMap<String, Value>, key: &str) -> Result<Option<IpNet>, (String, String)> {
    let Some(text) = text(fields, key)? else {
        return Ok(None);
    };
    let network = text.parse::<IpNet>().ok();
    match network.filter(|network| network.trunc() == *network && network.prefix_len() > 0) {
        Some(network) => Ok(Some(network)),
        None => Err((
            format!("`{key}` gets `{}`, which is no network", text.escape_debug()),
            "write a network such as \"10.20.0.0/16\", without host bits; for all addresses, leave the condition out".to_owned(),
        )),
    }
}

fn link(fields: &BTreeMap<String, Value>, key: &str) -> Result<Option<String>, (String, String)> {
    let Some(text) = text(fields, key)? else {
        return Ok(None);
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= LINK && text.chars().all(fits) {
        return Ok(Some(text.to_owned()));
    }
    Err((
        format!(
            "`{key}` gets `{}`, which is no name of a link",
            text.escape_debug()
        ),
        format!("write a name as `ip link` shows it, with at most {LINK} characters"),
    ))
}

fn protocol(fields: &BTreeMap<String, Value>) -> Result<Option<RuleProtocol>, (String, String)> {
    match text(fields, "protocol")? {
        None => Ok(None),
        Some("tcp") => Ok(Some(RuleProtocol::Tcp)),
        Some("udp") => Ok(Some(RuleProtocol::Udp)),
        Some("vrrp") => Ok(Some(RuleProtocol::Vrrp)),
        Some(other) => Err((
            format!("`{}` is not a protocol of a rule", other.escape_debug()),
            "write protocol: \"tcp\", \"udp\" or \"vrrp\"".to_owned(),
        )),
    }
}

fn action(fields: &BTreeMap<String, Value>) -> Result<RuleAction, (String, String)> {
    let help = || "write action: \"accept\", \"drop\", \"masquerade\" or \"return\"".to_owned();
    match text(fields, "action")? {
        Some("accept") => Ok(RuleAction::Accept),
        Some("masquerade") => Ok(RuleAction::Masquerade),
        Some("return") => Ok(RuleAction::Return),
        Some("drop") => Ok(RuleAction::Drop),
        Some(other) => Err((
            format!("`{}` is not an action of a rule", other.escape_debug()),
            help(),
        )),
        None => Err(("the rule has no action".to_owned(), help())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, Value> {
        let owned =
            |(key, value): &(&str, &str)| ((*key).to_owned(), Value::Text((*value).to_owned()));
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn rules_outside_of_the_grammar_are_refused() {
        let nat = ("nat", "POSTROUTING");
        let forward = ("filter", "FORWARD");
        let input = ("filter", "INPUT");
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let cases: [((&str, &str), Fields<'_>, &str); 18] = [
            (
                nat,
                &[("source", "10.20.0.0/16"), ("action", "masquerade")],
                "",
            ),
            (
                forward,
                &[("in_interface", "eth0.100"), ("action", "accept")],
                "",
            ),
            (forward, &[("source", "10.20.0.0/16")], "has no action"),
            (
                forward,
                &[("action", "reject")],
                "`reject` is not an action",
            ),
            (input, &[("protocol", "vrrp"), ("action", "drop")], ""),
            (nat, &[("action", "drop")], "drops nothing there"),
            (
                input,
                &[("protocol", "112"), ("action", "drop")],
                "`112` is not a protocol",
            ),
            (forward, &[("action", "masquerade")], "only in POSTROUTING"),
            (
                forward,
                &[("sorce", "10.0.0.0/8"), ("action", "accept")],
                "no `sorce`",
            ),
            (
                forward,
                &[("source", "10.20.0.1/16"), ("action", "accept")],
                "no network",
            ),
            (
                forward,
                &[("source", "0.0.0.0/0"), ("action", "accept")],
                "no network",
            ),
            (
                forward,
                &[("source", "10.20.0.1"), ("action", "accept")],
                "no network",
            ),
            (
                forward,
                &[("in_interface", "eth0 -j DROP"), ("action", "accept")],
                "no name of a link",
            ),
            (
                forward,
                &[("in_interface", "a23456789012345x"), ("action", "accept")],
                "no name of a link",
            ),
            (
                forward,
                &[("in_interface", "-"), ("action", "accept")],
                "no name of a link",
            ),
            (
                nat,
                &[("in_interface", "eth0"), ("action", "return")],
                "did not come over",
            ),
            (
                input,
                &[("out_interface", "eth0"), ("action", "return")],
                "not decided yet",
            ),
            (
                nat,
                &[
                    ("destination", "10.0.0.0/8"),
                    ("not_destination", "10.1.0.0/16"),
                    ("action", "return"),
                ],
                "cannot have both",
            ),
        ];
        for ((table, from), pairs, says) in cases {
            let result = rule(&fields(pairs), table, from);
            let message = result.err().map(|(message, _)| message).unwrap_or_default();
            assert_eq!(message.is_empty(), says.is_empty(), "{pairs:?}: {message}");
            assert!(message.contains(says), "{pairs:?}: {message}");
        }
        let late = BTreeMap::from([("action".to_owned(), Value::Integer(1))]);
        assert!(rule(&late, "filter", "INPUT").is_err());
    }
}
