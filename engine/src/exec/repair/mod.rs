//! Stop and restart: which phases a repair restarts, and how they are stopped and started again.
//!
//! Contains the set of phases to restart, the trial before services are stopped, and the restart of what was stopped when a repair does
//! not complete. When to repair is decided by the agent.
//!
//! Start with `restart`, then `stop`. `write_trial` is the trial; `needs` is a part of it, and `restartable` says what a repair can
//! restart all the same. `wake` wakes docker and containerd, before anything else is done.

mod needs;
pub(in crate::exec) mod rebuild;
pub(in crate::exec) mod restart;
mod restartable;
pub(in crate::exec) mod start_again;
pub(in crate::exec) mod stop;
pub(in crate::exec) mod stopped;
pub(in crate::exec) mod wake;
pub(in crate::exec) mod write_trial;
