//! The lab.

pub mod oci;
