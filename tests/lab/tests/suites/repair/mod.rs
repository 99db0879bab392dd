//! What nodeletd does on a running master: it finds what is broken, repairs it, and changes nothing else.

pub(crate) mod certificates;
pub(crate) mod endurance;
pub(crate) mod eviction;
pub(crate) mod fault;
pub(crate) mod health;
pub(crate) mod operator;
pub(crate) mod timers;
