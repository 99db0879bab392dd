//! What repairs a host: checks, restarts, renewed certificates, replaced authorities.

mod certificates;
mod order;
mod pod_network;
mod quorum;
mod repairs;
mod rotation;
mod rotation_crashes;
mod virtual_ip;
