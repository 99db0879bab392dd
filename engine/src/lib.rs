//! Turns phase scripts into a plan, and a plan into a host that is as the plan says.

pub mod host;
