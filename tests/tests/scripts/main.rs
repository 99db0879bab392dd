//! The script language, and roles: what a script means, what its mistakes look like, and the plans of roles.

mod diagnostics;
mod plans;
mod role;
mod words;
