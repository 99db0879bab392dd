//! The configuration of HAProxy.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use tokio::process::Command;
use wire::enrolment;

use super::files::Files;
use crate::config::{Configuration, Mode, Service, WITHOUT_CERTIFICATE};

const TEMPLATE: &str = include_str!("../../templates/haproxy.cfg");
/// What header fields begin with that only the ingress may set: `X-PF9-Host-Id` is the id of the host that asks.
pub const HEADER: &str = "X-PF9-Host-";
/// The signs of names of header fields (RFC 9110, section 5.6.2) besides letters, digits, hyphens and underscores, as HAProxy's configuration has them.
const SIGNS: [&str; 13] = [
    "!", r"\#", "$", "%", "&", r"\'", "*", "+", ".", "^", "`", "|", "~",
];
/// Time for HAProxy to check a configuration.
const LIMIT: Duration = Duration::from_secs(30);

/// What the template reads.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    host: &'a str,
    connections: u32,
    connections_per_host: u32,
    user: Option<&'a str>,
    bind: Vec<String>,
    files: &'a Files,
    services: Vec<ShownService>,
    without_certificate: [&'static str; 2],
    header: &'static str,
    removed: Vec<String>,
    signs: [&'static str; 13],
    enroll: &'static str,
}

#[derive(Debug, Serialize)]
struct ShownService {
    name: String,
    http: bool,
    read_only: bool,
    backend: String,
}

/// The text of the configuration.
///
/// # Errors
/// The template has a mistake.
pub fn text(configuration: &Configuration, files: &Files) -> Result<String> {
    let ingress = &configuration.ingress;
    let enroll = Service {
        name: enrolment::NAME.to_owned(),
        mode: Mode::Http,
        read_only: false,
        backend: configuration.listen,
    };
    let services = std::iter::once(&enroll)
        .chain(&ingress.services)
        .map(|its| ShownService {
            name: its.name.clone(),
            http: its.mode == Mode::Http,
            read_only: its.read_only,
            backend: its.backend.to_string(),
        })
        .collect();
    let bind: Vec<String> = ingress
        .bind
        .iter()
        // Beside an IPv4 socket for the same port, an IPv6 one has to leave IPv4 alone.
        .map(|address| match address.is_ipv6() {
            true => format!("{address} v6only"),
            false => address.to_string(),
        })
        .collect();
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let text = environment
        .render_str(
            TEMPLATE,
            Serde(Shown {
                host: &configuration.host,
                connections: ingress.connections,
                connections_per_host: ingress.most_of_a_host(),
                user: ingress.user.as_deref(),
                bind,
                files,
                services,
                without_certificate: WITHOUT_CERTIFICATE,
                header: HEADER,
                removed: [HEADER, "X-Forwarded-"]
                    .into_iter()
                    .flat_map(spellings)
                    .collect(),
                signs: SIGNS,
                enroll: enrolment::NAME,
            }),
        )
        .context("write the configuration of HAProxy")?;
    // HAProxy takes a file without an end of its last line for one that was cut off.
    Ok(text + "\n")
}

/// A name with hyphens, each of them also as an underscore. (Not as a pattern: HAProxy makes machine code of these, which its unit may forbid.)
fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for letter in name.to_ascii_lowercase().chars() {
        let letters: &[char] = match letter {
            '-' => &['-', '_'],
            _ => &[letter],
        };
        all = all
            .iter()
            .flat_map(|before| letters.iter().map(move |its| format!("{before}{its}")))
            .collect();
    }
    all
}

/// Asks HAProxy whether it could use a configuration.
///
/// # Errors
/// It could not, with its words; or HAProxy is not installed. Cancelled, HAProxy is ended.
pub async fn validate(path: &Path) -> Result<()> {
    let child = Command::new("haproxy")
        .args(["-c", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(LIMIT, child).await;
    let ended = ended
        .with_context(|| {
            format!(
                "check {}: HAProxy takes longer than {} s",
                path.display(),
                LIMIT.as_secs()
            )
        })?
        .context("start `haproxy -c`; is the package haproxy installed?")?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        // Besides, it says its version and where it is.
        let problems: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("[ALERT]"))
            .collect();
        bail!(
            "check {}: HAProxy refuses it: {}",
            path.display(),
            problems.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hyphen_may_be_an_underscore() {
        assert_eq!(spellings("A-b-"), ["a-b-", "a-b_", "a_b-", "a_b_"]);
    }
}
