//! The suites that need real hosts, a module for each group of behaviour. `lab_suites` says how to run them.

mod again;
mod attempts;
mod bitrot;
mod certificates;
mod clean;
mod cluster;
mod endurance;
mod etcd_backup;
mod etcd_data;
mod eviction;
mod faults;
mod foretold;
mod health;
mod held;
mod interrupt;
mod live;
mod preflight;
mod refusal;
mod repair;
mod security;
mod up;
mod user_images;
mod virtual_ip;
