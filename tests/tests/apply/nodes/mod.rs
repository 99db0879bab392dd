//! Hosts that join a cluster: `workers`, and further `masters`.

mod masters;
mod workers;
