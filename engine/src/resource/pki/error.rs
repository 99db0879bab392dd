//! Errors of keys and certificates.

use crate::resource::ResourceError;

/// Why a key or certificate could not be made or read. No text holds key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file does not contain a valid key or certificate.
    #[error("{place}: {problem}")]
    Unreadable {
        /// The file.
        place: String,
        /// What is wrong with its content.
        problem: String,
    },
    /// An authority or key that is never replaced by itself cannot be used, and an operator has to decide.
    #[error("{problem}; {help}")]
    Precious {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        help: String,
    },
    /// A field of a specification is invalid.
    #[error("{field} `{value}`: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why it is invalid.
        problem: &'static str,
    },
    /// The host has the certificate of the authority but not its key.
    #[error(
        "this host has the certificate of authority `{authority}` but not its key; \
         issue on a host that has it, and import the result"
    )]
    NoKey {
        /// The authority.
        authority: String,
    },
    /// The authority is not valid at this time.
    #[error("the clock says {now}, and authority `{authority}` is valid from {from} until {until}")]
    OutsideValidity {
        /// The authority.
        authority: String,
        /// The host's time.
        now: String,
        /// Begin of its validity.
        from: String,
        /// End of its validity.
        until: String,
    },
    /// The library that builds certificates refused.
    #[error("{0}")]
    Build(String),
}

impl PkiError {
    /// This error as the cause of a failed `action`.
    pub(crate) fn at(self, action: impl Into<String>) -> ResourceError {
        ResourceError::Pki {
            action: action.into(),
            // A key that is lost does not come back by itself.
            permanent: matches!(self, Self::Precious { .. }),
            source: Box::new(self),
        }
    }
}

impl From<rcgen::Error> for PkiError {
    /// Only for building and signing. An error of parsing a key is never passed on, because it could quote the key.
    fn from(error: rcgen::Error) -> Self {
        Self::Build(error.to_string())
    }
}
