//! A program of a fake host.

use std::fmt;
use std::sync::Arc;

use super::World;
use crate::host::{CommandOutput, CommandSpec};

/// What a program does to a fake world.
#[derive(Clone)]
pub struct Program(pub(in crate::host::fake) Behaviour);

type Changes = dyn Fn(&CommandSpec, &mut World) -> CommandOutput + Send + Sync;
type ReadsWorld = dyn Fn(&CommandSpec, &World) -> CommandOutput + Send + Sync;

#[derive(Clone)]
pub(in crate::host::fake) enum Behaviour {
    Changes(Arc<Changes>),
    ReadsWorld(Arc<ReadsWorld>),
}

impl Program {
    /// A program that may change the world.
    pub fn new(
        behaviour: impl Fn(&CommandSpec, &mut World) -> CommandOutput + Send + Sync + 'static,
    ) -> Self {
        Self(Behaviour::Changes(Arc::new(behaviour)))
    }

    /// A program that only looks; its calls do not count as mutations.
    pub fn probe(
        behaviour: impl Fn(&CommandSpec, &World) -> CommandOutput + Send + Sync + 'static,
    ) -> Self {
        Self(Behaviour::ReadsWorld(Arc::new(behaviour)))
    }

    /// A probe that always ends like this.
    #[must_use]
    pub fn ends(status: i32, stdout: &str) -> Self {
        let output = CommandOutput {
            status,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        Self::probe(move |_, _| output.clone())
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("mutating", &matches!(self.0, Behaviour::Changes(_)))
            .finish_non_exhaustive()
    }
}
