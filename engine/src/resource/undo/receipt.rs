//! Receipts: what a converge did, as the undos that revert it.

use async_trait::async_trait;

use super::data::Undo;
use crate::resource::ResourceResult;

/// The log in which an undo is written before its effect, so that the undo survives a crash of this process.
#[async_trait]
pub trait UndoLog: Send + Sync {
    /// Returns once the undo would survive a power cut.
    ///
    /// # Errors
    /// The undo could not be written; its effect must not happen then.
    async fn note(&self, undo: &Undo) -> ResourceResult<()>;
}

/// What a converge did, in the order in which it did it.
#[derive(Default)]
pub struct Receipt<'a> {
    /// The inverses; they are carried out from the last to the first.
    pub undos: Vec<Undo>,
    log: Option<Box<dyn UndoLog + 'a>>,
}

impl std::fmt::Debug for Receipt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.undos).finish()
    }
}

impl<'a> Receipt<'a> {
    /// A receipt whose undos are written to `log` as well.
    #[must_use]
    pub fn logged(log: Box<dyn UndoLog + 'a>) -> Self {
        Self {
            undos: Vec::new(),
            log: Some(log),
        }
    }

    /// Records an undo, before its effect.
    ///
    /// # Errors
    /// The undo could not be written to the log; its effect must not happen.
    pub async fn push(&mut self, undo: Undo) -> ResourceResult<()> {
        if let Some(log) = &self.log {
            log.note(&undo).await?;
        }
        self.undos.push(undo);
        Ok(())
    }
}
