//! The proxy in the file of earlier versions (JSON).

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Credentials, LIMIT, Proxy};
use crate::path::connect::authority;

/// The file of earlier versions.
#[derive(Deserialize)]
struct Earlier {
    http_proxy: Option<EarlierProxy>,
}

/// A proxy in it.
#[derive(Deserialize)]
struct EarlierProxy {
    #[serde(default)]
    protocol: Option<String>,
    host: String,
    port: Port,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    pass: Option<String>,
}

/// A port as a number or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

/// The proxy of the file of earlier versions; `None` if there is no such file, or none in it.
pub(super) fn earlier_file(path: &Path) -> Result<Option<Proxy>> {
    let read = daemon::files::read(path, LIMIT);
    let read = read.context("the user of pf9-comms has to be able to read it")?;
    let Some(content) = read else {
        return Ok(None);
    };
    let place = || path.display().to_string();
    // The error of the parser would show what the file says: it may be a password.
    let parsed: Earlier = serde_json::from_slice(&content).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!(
            "{}:{line}:{column}: it needs `http_proxy` with `host`, `port`, `user` and `pass`",
            path.display()
        )
    })?;
    let Some(earlier) = parsed.http_proxy else {
        return Ok(None);
    };
    let port = match earlier.port {
        Port::Number(number) => number.to_string(),
        Port::Text(text) => text,
    };
    let scheme = earlier.protocol.unwrap_or_else(|| "http".to_owned());
    let host = authority(&earlier.host, 0);
    let host = host.strip_suffix(":0").unwrap_or(&host);
    let mut proxy = super::parsed(&format!("{scheme}://{host}:{port}")).with_context(place)?;
    if let Some(user) = earlier.user.filter(|user| !user.is_empty()) {
        // Refuses a file that others may read.
        daemon::files::read_private(path, LIMIT)?;
        let password = earlier.pass.unwrap_or_default();
        proxy.credentials = Some(Credentials::new(user, password).with_context(place)?);
    }
    Ok(Some(proxy))
}
