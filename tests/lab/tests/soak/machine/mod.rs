//! Soaks in a virtual machine, which has a kernel and power of its own.

pub(crate) mod power;
pub(crate) mod vm;
