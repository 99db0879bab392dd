//! The steps and the stages of a replacement: of an authority, or of the encryption keys.

use serde::{Deserialize, Serialize};

/// A step of replacing an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// A successor is made, and trusted beside the present authority.
    Begin,
    /// The successor signs; its predecessor is still trusted.
    Switch,
    /// The predecessor is no longer trusted.
    Finish,
}

/// What a difference of [`Rotation::Finish`] is called for an authority.
pub(in crate::resource::pki) const PREDECESSOR: &str = "predecessor";
/// The same for the encryption keys.
pub(in crate::resource::pki) const PREVIOUS_KEY: &str = "previous key";
/// The names of differences by which a recorded [`Rotation::Finish`] is known.
pub(crate) const FINISH_FIELDS: [&str; 2] = [PREDECESSOR, PREVIOUS_KEY];

/// The stage of an authority's replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// No other authority is trusted.
    Settled,
    /// A successor is trusted as well.
    Begun,
    /// Its predecessor is trusted as well.
    Switched,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Settled => "there is one authority, and no other is trusted",
            Self::Begun => "its successor is trusted and does not sign yet",
            Self::Switched => "its successor signs, and it is still trusted",
        })
    }
}
