//! The steps of the set-up, one file each, and the facts about Debian they share.
//!
//! `packages` installs what this machine needs, `kubernetes` builds Kubernetes from Debian's source package, and `payload` collects what
//! the role needs. `images` has the container images as files, `host_image` the images of lab hosts, and `machine` and `kernel` what virtual
//! hosts start from. `runc_wrapper` is for machines that need one.
//!
//! Not here: the order of the steps (`setup`), and the hosts that are made of their results (`topology`). Start with `host_image`.

pub(crate) mod host_image;
pub(crate) mod images;
pub(crate) mod kernel;
pub(crate) mod kubernetes;
pub(crate) mod machine;
pub(crate) mod packages;
pub(crate) mod payload;
pub(crate) mod runc_wrapper;

use std::time::Duration;

/// Deadline of one recipe that mostly unpacks packages.
const UNPACK: Duration = Duration::from_secs(1800);
/// Deadline of one recipe that compiles.
const COMPILE: Duration = Duration::from_secs(7200);
