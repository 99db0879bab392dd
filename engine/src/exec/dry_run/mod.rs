//! Dry runs: the hosts on which a plan is simulated.
//!
//! A dry run from facts uses a simulated host (`simulated`, `from_facts`), a dry run on a real host an overlay that changes nothing
//! (`overlay`). The run itself is the same code as an apply.
//!
//! Start with `overlay`.

pub(crate) mod from_facts;
pub(in crate::exec) mod overlay;
pub(in crate::exec) mod planned;
pub(in crate::exec) mod simulated;
