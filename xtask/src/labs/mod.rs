//! The commands for labs: `up`, `down`, `status`, `shell`, `kubectl` and `lab fault`.
//!
//! `up` brings a Kubernetes master and its workers up, or applies the changes of the checkout to a lab that exists. `down` removes
//! labs, or one worker. `status` lists them. `shell` has the commands that a user runs on a host, and `fault` breaks a host on purpose.
//!
//! Not here: the hosts, their images and the faults themselves (the crate `lab`), and the hosts of suites (`test`). Start with `up`.

pub(crate) mod down;
pub(crate) mod fault;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod up;
