//! Whether the cluster still accepts the token of a join file: asked before anything on the host is touched. The step that asks for certificates says the
//! same (`signing`), but it comes after others.

use std::time::Duration;

use super::source::Problem;
use crate::resource::pki::join::spec::JoinFileSpec;
use crate::resource::{Context, Resource as _, ResourceResult};

/// How often the API server has to refuse the token until that is final, and the pause between two questions. An API server that has just started may
/// not have read its tokens yet.
const REFUSALS: (u32, Duration) = (3, Duration::from_millis(2500));
/// Deadline of one question, with the connection.
const DEADLINE: Duration = Duration::from_secs(3);

impl JoinFileSpec {
    /// An error if the host needs the token of its join file, and the API server does not accept it. An API server that does not answer, or answers
    /// otherwise, is left to the step that asks for certificates. A host with a valid identity of its node does not need the token. Takes at most
    /// about 14 seconds. Changes nothing. Cancel safe.
    ///
    /// # Errors
    /// The token is not accepted, or the join file cannot be used, or the host cannot be read.
    pub(crate) async fn token_is_accepted(&self, cx: &Context<'_>) -> ResourceResult<()> {
        let wanted = self.observe(cx).await?.wanted;
        let Some(kubeconfig) = wanted.bootstrap.as_ref().filter(|_| wanted.needs_token) else {
            return Ok(());
        };
        let (answers, pause) = REFUSALS;
        for number in 0..answers {
            if number > 0 {
                cx.host.pause_for_others(pause).await;
            }
            let accepted = cx.host.accepts_identity(kubeconfig, DEADLINE).await;
            if !matches!(accepted, Ok(false)) {
                return Ok(());
            }
        }
        let joining = self.joining();
        Err(Problem::token_refused(&joining, &wanted.server).into_error(&joining))
    }
}
