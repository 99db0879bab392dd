//! What can be wrong with a join file or with a key of a host.

use thiserror::Error;

use super::sealed::{LONGEST, VERSION};

/// Why a join file or a key of a host cannot be used. No text has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinFileError {
    /// The key that a file should be encrypted to is none.
    #[error(
        "`{0}` is not the public key of a host: `nodelet pki key` prints it on that host, and it begins with `age1`"
    )]
    Recipient(String),
    /// The identity of this host cannot be read. Its text is a secret, so it is not named.
    #[error(
        "the identity of this host is damaged: it does not begin with `AGE-SECRET-KEY-1`, or a character is wrong"
    )]
    Identity,
    /// It has more bytes than a join file can have.
    #[error("a join file has at most {LONGEST} bytes")]
    TooLarge,
    /// It is no age file.
    #[error("it is not a join file: {0}")]
    NotAge(&'static str),
    /// Another host can read it.
    #[error(
        "it is encrypted to the key of another host; `nodelet pki key` prints the key of this host, for `--to` on a master"
    )]
    OtherRecipient,
    /// It was changed since it was made, or is incomplete.
    #[error("it is damaged or incomplete: copy it from the master again")]
    Damaged,
    /// A newer nodelet made it.
    #[error("its format version is {0}, this nodelet supports 1 to {VERSION}")]
    Version(u32),
    /// It is for a further master, and this host is a worker.
    #[error("it is for a master, and this host is a worker")]
    ForMaster,
    /// It is for a worker, and this host is a master.
    #[error("it is for a worker, and this host is a master")]
    ForWorker,
    /// It is no join file.
    #[error("it has the successor of an authority or of a key, and is no join file")]
    Successor,
    /// It is a join file, and a successor was expected.
    #[error("it is a join file, and has no successor of an authority or of a key")]
    NoSuccessor,
    /// Its content is not what a join file has.
    #[error("its content cannot be used: {0}")]
    Content(String),
    /// It was made for another node.
    #[error("it is for node `{meant}`, and this host is node `{node}`")]
    OtherNode {
        /// The node that it is for.
        meant: String,
        /// The node of this host.
        node: String,
    },
    /// Another node has the address of this host.
    #[error("{node} has the address of this host, {address}")]
    TakenAddress {
        /// Which node it is, as a text.
        node: String,
        /// The name of the node, if the file has it.
        name: Option<String>,
        /// The address.
        address: std::net::IpAddr,
    },
    /// Its time is over.
    #[error("it expired at {until}{made}, and the clock of this host says {clock}")]
    Expired {
        /// Its end.
        until: String,
        /// When it was made, as a text in brackets; empty if it does not say it.
        made: String,
        /// The time of this host.
        clock: String,
    },
    /// The clock of this host is behind.
    #[error("it was made at {issued}, and the clock of this host says {clock}")]
    NotYet {
        /// When it was made.
        issued: String,
        /// The time of this host.
        clock: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}
