//! What a failure message adds to the error: what was found near it, and what to do next.
//!
//! Start with `advice`; `remedy` has the known errors.
//!
//! Not here: the text of the error itself (each module has its own errors), what to do about an error of the operating system
//! (`model::SystemError`), and the report (`report`).

pub(in crate::exec) mod advice;
pub(in crate::exec) mod remedy;
