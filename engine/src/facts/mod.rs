//! A description of a host, taken before anything is planned for it.
//!
//! [`Facts`] are a read-only, serializable description; [`gather()`] takes them through the `Host` traits, a YAML file
//! holds them as a fixture, `FakeHost::from_facts` builds a world from them, and [`Requirement`]s are checked against
//! them as pure functions. Nothing here changes a host, and nothing fails as a whole because one item is missing:
//! what could not be learnt is listed under `unknown` with its reason.
//!
//! Not here: how a host is read (`host::live`), and what scripts see of the facts (`planner::context`). Start with `model`, then
//! `gather`; `preflight` has the requirements, and `requirements` compares them with the facts. `directory` judges a directory for secrets.

mod directory;
mod fact_query;
mod fixture;
mod gather;
pub(crate) mod kernel;
mod model;
mod obstacle;
mod parse;
mod plausible;
mod preflight;
mod requirements;

pub use directory::DirectoryProblem;
pub use fact_query::FactQuery;
pub use fixture::FactsError;
pub(crate) use gather::has_roots;
pub use gather::{gather, gather_with};
pub use model::{
    AddressUser, CgroupVersion, Cgroups, DefaultRoute, Disk, Facts, LinkFacts, Listener, MASTERS,
    MASTERS_UNKNOWN, MOST_MASTERS, MasterEntry, MastersError, OperatingSystem, Route, Swap,
    UnitFacts,
};
pub(crate) use model::{
    MASTERS_BYTES, MASTERS_REMEDY, checked_masters, masters_from, masters_text,
};
pub use obstacle::{Obstacle, ObstacleKind};
pub use preflight::{NamedCidr, Requirement, SupportedSystem, Verdict};
pub(crate) use requirements::reserved_address;
