//! Errors as text, and what to do about those of the operating system.

mod chain;
mod system;

pub use chain::chain;
pub use system::SystemError;
