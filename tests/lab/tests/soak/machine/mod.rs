//! Soaks in virtual machines, which have kernels and power of their own.

pub(crate) mod power;
pub(crate) mod three;
pub(crate) mod vm;
