//! Turns phase scripts into a plan, and brings a host into the state that the plan describes.
//!
//! ```text
//! role package + settings + facts ──planner──▶ Plan ──exec──▶ events ──report──▶ text, JSON, progress
//!    (role, script)  (env)  (facts)            (plan)   │
//!                                                       ▼
//!                                     resource: observe, diff, converge, undo ──▶ host
//! ```
//!
//! Scripts describe, Rust performs: evaluating scripts changes nothing ([`script`]), the plan is immutable data
//! ([`mod@plan`]), and everything that reads or changes a machine goes through one trait ([`host::Host`]).
//!
//! Not here: arguments, exit codes and locks of a command, and when the daemon acts (the agents). Start with [`resource`], then [`exec`];
//! ARCHITECTURE.md has the order of the modules.

pub mod env;
pub mod exec;
pub mod facts;
pub mod host;
pub mod kubernetes;
pub mod ledger;
pub mod model;
pub mod plan;
pub mod planner;
pub mod report;
pub mod resource;
pub mod role;
pub mod schedule;
pub mod script;
mod yaml;
