//! What HAProxy reads: its certificate, the roots, revoked certificates, and the keys of session tickets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use serde::Serialize;

use super::configuration;
use crate::authority::{Authority, Revoked};
use crate::config::Configuration;

/// Keys of tickets that HAProxy has at a time: one for new tickets, one before, one after.
pub const TICKET_KEYS: usize = 3;
/// Bytes of one: of AES-256, its HMAC, and a name.
const TICKET_KEY: usize = 80;
/// The modes of the directory and of secrets in it: HAProxy has the group.
const DIRECTORY: u32 = 0o750;
const SECRET: u32 = 0o640;
/// Largest file that is read, in bytes. A configuration with the most services has about 200 KiB if their names are long.
const LIMIT: u64 = 1024 * 1024;
/// The same of the serial numbers: a line of about 40 bytes for each.
const SERIALS: u64 = 64 * LIMIT;

/// Their places.
#[derive(Debug, Clone, Serialize)]
pub struct Files {
    /// The configuration.
    pub configuration: PathBuf,
    /// The certificate with its root and key.
    pub server: PathBuf,
    /// The roots.
    pub roots: PathBuf,
    /// The list of revoked certificates, signed by the root.
    pub revoked: PathBuf,
    /// The serial numbers in it: HAProxy does not look at the list when a session is resumed.
    pub revoked_serials: PathBuf,
    /// The keys of session tickets.
    pub ticket_keys: PathBuf,
}

impl Files {
    /// Below the directory of the plane's state.
    #[must_use]
    pub fn below(state: &Path) -> Self {
        let place = |name: &str| state.join("ingress").join(name);
        Self {
            configuration: place("haproxy.cfg"),
            server: place("server.pem"),
            roots: place("roots.crt"),
            revoked: place("revoked.crl"),
            revoked_serials: place("revoked.serials"),
            ticket_keys: place("ticket.keys"),
        }
    }

    /// Writes all files that are not as wanted, without those of revoked certificates ([`Self::write_revoked`]). The configuration takes the place of the one before only if HAProxy
    /// can use it.
    ///
    /// # Errors
    /// A file cannot be written, or HAProxy refuses the configuration.
    pub async fn write_others(
        &self,
        configuration: &Configuration,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<()> {
        self.write_server(&configuration.host, authority, now)?;
        replaced(&self.roots, authority.certificate(), 0o644)?;
        if self.ticket_keys().is_err() {
            let keys: Vec<String> = (0..TICKET_KEYS).map(|_| ticket_key()).collect();
            self.write_ticket_keys(&keys)?;
        }
        // Those of an earlier version were for their owner.
        for path in [&self.server, &self.ticket_keys] {
            set_mode(path, SECRET)?;
        }
        if let Some(directory) = self.configuration.parent() {
            set_mode(directory, DIRECTORY)?;
        }
        let text = configuration::text(configuration, self)?;
        // `planectl init` and `planectl serve` may do this at the same time.
        let tried = daemon::files::beside(&self.configuration, text.as_bytes(), 0o644)?;
        configuration::validate(&tried).await?;
        replaced(&self.configuration, &text, 0o644)
    }

    /// Removes what a power cut has left beside them. HAProxy reads none of it, so a failure is no reason to keep it from its files.
    ///
    /// # Errors
    /// The directory cannot be listed, or a file in it cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        match self.configuration.parent() {
            Some(directory) => daemon::files::sweep(directory, daemon::files::ABANDONED),
            None => Ok(()),
        }
    }

    /// When one of the files has changed last that only a new worker reads.
    ///
    /// # Errors
    /// One is missing.
    pub fn changed_at(&self) -> Result<SystemTime> {
        let mut newest = SystemTime::UNIX_EPOCH;
        for path in [&self.configuration, &self.server, &self.roots] {
            let metadata = path.metadata();
            let at = metadata.and_then(|its| its.modified());
            let at = at.with_context(|| format!("look at {}", path.display()))?;
            newest = newest.max(at);
        }
        Ok(newest)
    }

    /// Makes the certificate of the ingress anew if it has to be.
    fn write_server(&self, host: &str, authority: &Authority, now: SystemTime) -> Result<()> {
        if let Ok(Some(present)) = daemon::files::read(&self.server, LIMIT)
            && authority.can_keep(&present, host, now)
        {
            return Ok(());
        }
        let server = authority.server(host, now)?;
        daemon::files::replace(&self.server, server.as_bytes(), SECRET)
    }

    /// Writes the two files with revoked certificates: the list that the root has signed, and the serial numbers.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_revoked(&self, list: &str, revoked: &[Revoked]) -> Result<()> {
        daemon::files::replace(&self.revoked, list.as_bytes(), 0o644)?;
        let serials: String = revoked
            .iter()
            .map(|its| format!("{}\n", its.serial))
            .collect();
        daemon::files::replace(&self.revoked_serials, serials.as_bytes(), 0o644)
    }

    /// The serial numbers that are in their file. Without the file, there are none.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn serials(&self) -> Result<Vec<String>> {
        let path = &self.revoked_serials;
        let found = daemon::files::read(path, SERIALS)?.unwrap_or_default();
        let text = String::from_utf8(found).with_context(|| format!("read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The keys of session tickets, the oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn ticket_keys(&self) -> Result<Vec<String>> {
        let path = &self.ticket_keys;
        let found = daemon::files::read(path, LIMIT)?
            .with_context(|| format!("read {}: there is no such file", path.display()))?;
        let text = String::from_utf8(found).with_context(|| format!("read {}", path.display()))?;
        let keys: Vec<String> = text.lines().map(str::to_owned).collect();
        let is_key = |key: &String| {
            STANDARD
                .decode(key)
                .is_ok_and(|its| its.len() == TICKET_KEY)
        };
        if keys.len() != TICKET_KEYS || !keys.iter().all(is_key) {
            bail!(
                "read {}: it does not have {TICKET_KEYS} keys",
                path.display()
            );
        }
        Ok(keys)
    }

    /// Writes the keys of session tickets.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_ticket_keys(&self, keys: &[String]) -> Result<()> {
        let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        daemon::files::replace(&self.ticket_keys, text.as_bytes(), SECRET)
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// Writes a file if it has another content: the time of one that stays is kept.
fn replaced(path: &Path, content: &str, mode: u32) -> Result<()> {
    if daemon::files::read(path, LIMIT)?.is_some_and(|its| its == content.as_bytes()) {
        return Ok(());
    }
    daemon::files::replace(path, content.as_bytes(), mode)
}

/// A new key of session tickets.
#[must_use]
pub fn ticket_key() -> String {
    let mut bytes = [0; TICKET_KEY];
    rand::rng().fill_bytes(&mut bytes);
    STANDARD.encode(bytes)
}
