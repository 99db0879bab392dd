//! Clusters of several nodes: their number changes under load, workers are without an API server, an external load balancer takes the place of a
//! virtual IP, and what holds for a single master holds
//! for a worker and for one of three masters.

mod bitrot;
mod fidelity;
mod load_balancer;
mod lost_worker;
mod membership;
mod repairs;
mod rotation;
mod slates;
mod subject;
mod workers;
