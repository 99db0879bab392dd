//! Hosts that join a cluster: `workers`, and further `masters`. `refused` has hosts of the whole role that may not join or leave.

mod masters;
mod refused;
mod workers;
