//! The successor of an authority or of an encryption key, on its way from one master to another.
//!
//! It is encrypted to the master that gets it, as the join file of a master is. No text of this module shows the key.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::sealed::{SUCCESSOR_KIND, SUCCESSOR_VERSION};
use super::{FileKind, JoinContent, JoinFileError, LONGEST_TEXT, Times, certificates};

/// Longest name of what is replaced, and longest id, in bytes.
const LONGEST_ID: usize = 100;

/// A successor with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessorFile {
    version: u32,
    kind: String,
    /// What is replaced: the name of an authority, or `encryption`.
    pub of: String,
    /// Until when it can be used, in seconds since 1970.
    pub expires: u64,
    /// The id of the one that is replaced.
    pub replaces: String,
    /// The id of the successor.
    pub id: String,
    /// The certificate of an authority as PEM; empty for an encryption key.
    pub certificate: String,
    /// The key: of an authority as PEM, an encryption key in base64.
    pub key: String,
}

/// Leaves out the key.
impl fmt::Debug for SuccessorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SuccessorFile")
            .field("of", &self.of)
            .field("expires", &self.expires)
            .field("replaces", &self.replaces)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SuccessorFile {
    /// The successor `id` of the one that has the id `replaces`. The certificate is empty for an encryption key.
    #[must_use]
    pub fn new(of: &str, replaces: &str, id: &str, certificate: String, key: String) -> Self {
        Self {
            version: SUCCESSOR_VERSION,
            kind: SUCCESSOR_KIND.to_owned(),
            of: of.to_owned(),
            expires: 0,
            replaces: replaces.to_owned(),
            id: id.to_owned(),
            certificate,
            key,
        }
    }

    /// It does not say when it was made: the host that takes it is a master, and has the clock of one.
    fn times(&self) -> Times {
        Times {
            issued: None,
            expires: self.expires,
        }
    }

    /// Whether it is still valid.
    ///
    /// # Errors
    /// It has expired.
    pub fn check(&self, now: SystemTime) -> Result<(), JoinFileError> {
        self.times().include(now)
    }
}

impl JoinContent for SuccessorFile {
    const KIND: FileKind = FileKind::Successor;

    /// Whether the key matches is checked where it is used.
    fn usable(&self) -> Result<(), JoinFileError> {
        let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
        self.times().usable()?;
        let ids = [&self.of, &self.replaces, &self.id];
        let is_id = |text: &str| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && text.len() <= LONGEST_ID
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !ids.into_iter().all(|id| is_id(id)) || self.replaces == self.id {
            return refused("it does not say what it replaces");
        }
        if self.key.is_empty()
            || self.key.len() > LONGEST_TEXT
            || self.certificate.len() > LONGEST_TEXT
        {
            return refused("a key or certificate in it is empty or too long");
        }
        if !self.certificate.is_empty() && certificates(&self.certificate)? != 1 {
            return refused("it has several certificates");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kubernetes::join_file::{JoinFile, MasterJoinFile, new_identity};

    fn file() -> SuccessorFile {
        let secret = "c2VjcmV0".to_owned();
        SuccessorFile {
            expires: 100,
            ..SuccessorFile::new("encryption", "1-aa", "2-bb", String::new(), secret)
        }
    }

    #[test]
    fn only_the_host_that_it_is_for_opens_it() {
        let (identity, public) = new_identity();
        let sealed = file().seal(&public).expect("it is complete");
        assert_eq!(SuccessorFile::open(&sealed, &identity), Ok(file()));
        let (other, _) = new_identity();
        let refused = SuccessorFile::open(&sealed, &other);
        assert_eq!(refused, Err(JoinFileError::OtherRecipient));
        let mut changed = sealed;
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert!(SuccessorFile::open(&changed, &identity).is_err());
        let shown = format!("{:?}", file());
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
    }

    #[test]
    fn it_is_no_join_file() {
        let (identity, public) = new_identity();
        let sealed = file().seal(&public).expect("it is complete");
        let worker = JoinFile::open(&sealed, &identity).map(drop);
        assert_eq!(worker, Err(JoinFileError::Successor));
        let master = MasterJoinFile::open(&sealed, &identity).map(drop);
        assert_eq!(master, Err(JoinFileError::Successor));
    }

    #[test]
    fn it_ends_and_has_limits() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(file().check(at(99)), Ok(()));
        assert!(matches!(
            file().check(at(100)),
            Err(JoinFileError::Expired { .. })
        ));
        let (_, public) = new_identity();
        for change in [
            |its: &mut SuccessorFile| its.id = "1-aa".to_owned(),
            |its: &mut SuccessorFile| its.of = "../x".to_owned(),
            |its: &mut SuccessorFile| its.replaces = String::new(),
            |its: &mut SuccessorFile| its.key = String::new(),
            |its: &mut SuccessorFile| its.key = "x".repeat(LONGEST_TEXT + 1),
            |its: &mut SuccessorFile| its.certificate = "no PEM".to_owned(),
        ] {
            let mut its = file();
            change(&mut its);
            let refused = its.seal(&public);
            assert!(matches!(refused, Err(JoinFileError::Content(_))), "{its:?}");
        }
    }
}
