//! What our programs say to one another, as types of serde.
//!
//! Each message names its version. A reader accepts the versions that it knows and refuses others by number; fields that it does not know are ignored,
//! so that a writer may add some without another version.
//!
//! Not here: input, output and decisions.

pub mod comms;
pub mod enrolment;
