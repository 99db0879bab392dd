//! Clusters of several nodes: their number changes under load, workers are without an API server, and what holds for a single master holds
//! for a worker and for one of three masters.

mod bitrot;
mod fidelity;
mod lost_worker;
mod membership;
mod repairs;
mod rotation;
mod slates;
mod subject;
mod workers;
