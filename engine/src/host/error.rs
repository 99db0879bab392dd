//! Errors of host calls.

use std::path::PathBuf;
use std::time::Duration;

/// Result of a host call.
pub type HostResult<T> = Result<T, HostError>;

/// A failed host call. `Display` completes "failed to …" and leaves the cause to the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// The verb, for example `write`.
        action: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A write would fail. The host can tell this without a write: [`Files::predict_write`](crate::host::Files::predict_write).
    #[error("write {}", path.display())]
    WriteRefused {
        /// The path.
        path: PathBuf,
        /// What the kernel would say.
        #[source]
        source: std::io::Error,
    },
    /// Something is larger than we are willing to read.
    #[error("read {}: it is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A program or a server returned more than we are willing to read. We draw no conclusion from a part of it.
    #[error("read the output of {who}: it has more than {limit} bytes")]
    TooMuch {
        /// The source of the output, for example `` `iptables-save` ``.
        who: String,
        /// The bound.
        limit: usize,
    },
    /// An earlier change was given up and has not ended, because the file system hangs. Whether it takes effect is not known.
    #[error(
        "{action} {}: an earlier `{earlier} {}` is still in progress after {}, so the content of that path is not known",
        path.display(), earlier_path.display(), humantime::format_duration(*.after)
    )]
    InProgress {
        /// What was to be done, for example `remove`.
        action: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// The earlier action, for example `write`.
        earlier: &'static str,
        /// The path of the earlier action.
        earlier_path: PathBuf,
        /// How long this call waited for the earlier one.
        after: Duration,
    },
    /// A process could not be started.
    #[error("start `{program}`")]
    Spawn {
        /// The program's name.
        program: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A process ended with a status other than success.
    #[error("run `{command}`: exit status {status}: {stderr}")]
    Exit {
        /// The command line (never contains secrets).
        command: String,
        /// The exit status, negative for a signal.
        status: i32,
        /// The tail of what it wrote to standard error.
        stderr: String,
    },
    /// A call did not end before its deadline.
    #[error("{action}: no answer within {}", humantime::format_duration(*.after))]
    Deadline {
        /// What was waited for.
        action: String,
        /// How long.
        after: Duration,
    },
    /// A service (docker, systemd, the API server …) refused or could not be reached.
    #[error("{action}")]
    Service {
        /// The request, for example `create container etcd`.
        action: String,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A service refused, or is not the one it should be. A retry gets the same result until an operator changes something.
    #[error("{action}")]
    Refused {
        /// The request, for example `get node master-1`.
        action: String,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something cannot be removed or unloaded, because it is in use.
    #[error("{action}")]
    InUse {
        /// The request, for example `unload module ip_vs`.
        action: String,
        /// The answer, which names the user if it is known.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A server shows a certificate whose validity begins later than our clock says, so this clock cannot judge it.
    #[error("{action}: the server's certificate is not valid yet by this host's clock")]
    Clock {
        /// The request.
        action: String,
        /// The error of the certificate check.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that we were given is damaged.
    #[error("read {}: it is damaged", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// The error that shows the damage.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that has to exist does not.
    #[error("find {what}")]
    Missing {
        /// The resource.
        what: String,
    },
    /// A fault that a test injected.
    #[error("{call} (injected fault)")]
    Injected {
        /// The call that was made to fail.
        call: String,
    },
}

impl HostError {
    /// A [`HostError::Service`] from anything that can be an error.
    pub fn service(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Service {
            action: action.into(),
            source: source.into(),
        }
    }

    /// A [`HostError::Refused`] from anything that can be an error.
    pub fn refused(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Refused {
            action: action.into(),
            source: source.into(),
        }
    }

    /// A [`HostError::InUse`] from anything that can be an error.
    pub fn in_use(
        action: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::InUse {
            action: action.into(),
            source: source.into(),
        }
    }

    /// Whether the next try would fail as this one did.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Clock { .. }
                | Self::Damaged { .. }
                | Self::TooLarge { .. }
                | Self::TooMuch { .. }
        )
    }
}
