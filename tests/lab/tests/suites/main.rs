//! The suites that need real hosts, a module for each group of behaviour. `lab_suites` says how to run them.

mod apply;
mod clean;
mod cluster;
mod comms;
mod files;
mod live;
mod repair;
mod role;
