//! Turns phase scripts into a plan, and a plan into a host that is as the plan says.
//!
//! ```text
//! role package + settings + facts ──planner──▶ Plan ──exec──▶ events ──report──▶ text, JSON, progress
//!    (role, script)  (env)  (facts)            (plan)   │
//!                                                       ▼
//!                                     resource: observe, diff, converge, undo ──▶ host
//! ```
//!
//! Scripts describe, Rust performs: evaluating scripts touches nothing ([`script`]), the plan is immutable data
//! ([`mod@plan`]), and everything that reads or changes a machine goes through one trait ([`host::Host`]).

pub mod diagnostic;
pub mod env;
pub mod exec;
pub mod facts;
pub mod host;
pub mod kubernetes;
pub mod ledger;
pub mod plan;
pub mod planner;
pub mod report;
pub mod resource;
pub mod role;
pub mod schedule;
pub mod script;
mod yaml;
