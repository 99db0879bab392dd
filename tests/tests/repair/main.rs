//! What repairs a host: checks, restarts, renewed certificates, replaced authorities.

mod certificates;
mod order;
mod repairs;
mod rotation;
