//! Units that stop or fail.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use tokio::time::timeout;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, connection, message::Type};

use super::trigger::Triggers;
use crate::pass::WatchList;

/// Deadline for one answer of the bus.
const TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const UNITS: &str = "/org/freedesktop/systemd1/unit";

pub(super) async fn listen(targets: WatchList, triggers: Triggers) -> Result<()> {
    let bus: Connection = timeout(TIMEOUT, connection::Builder::address(ADDRESS).build())
        .await
        .context("connect to the system bus in time")?
        .context("connect to the system bus")?;
    // systemd sends its signals only after this call.
    let subscribe = bus.call_method(
        Some(SYSTEMD),
        "/org/freedesktop/systemd1",
        Some("org.freedesktop.systemd1.Manager"),
        "Subscribe",
        &(),
    );
    timeout(TIMEOUT, subscribe)
        .await
        .context("subscribe to systemd's signals in time")?
        .context("subscribe to systemd's signals")?;
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path_namespace(UNITS)
        .build()
        .context("name systemd's signals")?;
    let mut signals = MessageStream::for_match_rule(rule, &bus, NonZeroUsize::new(256))
        .await
        .context("listen to systemd's signals")?;
    let paths: Vec<(String, &String)> = targets
        .units
        .iter()
        .map(|unit| (format!("{UNITS}/{}", escaped(unit)), unit))
        .collect();
    while let Some(signal) = signals.next().await {
        let signal = signal.context("listen to systemd's signals")?;
        let header = signal.header();
        let Some((_, unit)) = header
            .path()
            .and_then(|path| paths.iter().find(|(known, _)| known == path.as_str()))
        else {
            continue;
        };
        type Changed = (
            String,
            std::collections::HashMap<String, OwnedVariant>,
            Vec<String>,
        );
        let Ok((_, changed, _)) = signal.body().deserialize::<Changed>() else {
            continue;
        };
        let state = changed
            .get("ActiveState")
            .and_then(|state| state.downcast_ref::<&str>().ok().map(str::to_owned));
        if let Some(state) =
            state.filter(|state| !matches!(state.as_str(), "active" | "activating" | "reloading"))
        {
            triggers.add(format!("unit {unit}: {state}"));
        }
    }
    Ok(())
}

/// A unit's name as a part of an object path: each byte that is no ASCII letter or digit, and a digit at the start, becomes `_`
/// and two hex digits (`sd_bus_path_encode(3)`).
fn escaped(unit: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::new();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            path.push(byte.into());
        } else {
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #[test]
    fn unit_names_are_escaped_as_systemd_does() {
        assert_eq!(
            super::escaped("pf9-kubelet.service"),
            "pf9_2dkubelet_2eservice"
        );
        assert_eq!(super::escaped("9p.mount"), "_39p_2emount");
    }
}
