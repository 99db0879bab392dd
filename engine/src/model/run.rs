//! What a run was for and how it ended, as events, the ledger and reports say it.

use serde::{Deserialize, Serialize};

use super::Span;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Bring the host to the plan.
    Apply,
    /// Predict.
    DryRun,
    /// Stop what runs.
    Stop,
    /// Take everything back.
    Clean,
    /// Stop some phases and apply them again.
    Restart,
    /// Renew certificates that are due, and wait until they are used.
    Renew,
    /// Carry out one step of replacing an authority.
    Rotate,
    /// Recover a lost ledger.
    Recover,
}

/// How a phase or run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Converged,
    /// It failed and was rolled back.
    Failed,
    /// Preconditions do not hold; nothing was touched.
    Refused,
    /// It ended at a safe point because it was asked to.
    Interrupted,
    /// It was stopped.
    Stopped,
    /// The host is as it was before the role, except for what is kept.
    Cleaned,
    /// A dry run has ended: this is what would change.
    Predicted,
}

/// Why a phase failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step or check, in the script's words.
    pub what: String,
    /// Where the script says it.
    pub span: Span,
    /// The error and its causes, outermost first.
    pub chain: Vec<String>,
    /// What was found near it: states, last lines of logs.
    pub found: Vec<String>,
    /// The next thing to try.
    pub next: String,
}

impl Failure {
    /// `what` of an undo that failed begins with this. Ledgers contain it, so it must not change.
    pub(crate) const UNDO: &str = "taking back ";
    /// `what` of the stop of a step that failed begins with this. Ledgers contain it, so it must not change.
    pub(crate) const STOP: &str = "stop ";
}

/// A precondition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it asserts.
    pub requirement: String,
    /// Where the script says so.
    pub span: Span,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}
