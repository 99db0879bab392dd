//! What `nodelet apply` does on a real host: the first time, again, interrupted, refused, and after a failure.

pub(crate) mod attempts;
pub(crate) mod faults;
pub(crate) mod interrupt;
pub(crate) mod prediction;
pub(crate) mod preflight;
pub(crate) mod refusal;
pub(crate) mod second_apply;
pub(crate) mod up;
