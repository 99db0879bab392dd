//! The order in which undos are carried out, and the limit of their time.

use std::cmp::Reverse;
use std::time::Duration;

use super::data::Undo;
use crate::host::HostError;
use crate::resource::ResourceResult;

/// Undos in the order in which they are carried out: from the last to the first, then, once each, reloads, starts and
/// restarts of units, which have to read the restored files.
pub(crate) fn in_order(undos: &[Undo]) -> Vec<&Undo> {
    let (settling, others): (Vec<&Undo>, Vec<&Undo>) = undos
        .iter()
        .partition(|undo| undo.properties().deferred_order.is_some());
    let mut last: Vec<&Undo> = Vec::new();
    for undo in settling {
        if !last.contains(&undo) {
            last.push(undo);
        }
    }
    last.sort_by_key(|undo| last_order(undo));
    others.into_iter().rev().chain(last).collect()
}

/// The place of an undo among those that are carried out after all others: directories that were not empty before, the
/// deepest first, then reloads of units, then starts and restarts.
pub(crate) fn last_order(undo: &Undo) -> (Option<u8>, Reverse<usize>) {
    let depth = match undo {
        Undo::RemoveDirectory { path } => path.components().count(),
        _ => 0,
    };
    (undo.properties().deferred_order, Reverse(depth))
}

/// Bounds the time of an undo, or of a step that removes something. `action` says what is done, for the error.
pub(crate) async fn within<T>(
    after: Duration,
    action: String,
    work: impl Future<Output = ResourceResult<T>>,
) -> ResourceResult<T> {
    let done = tokio::time::timeout(after, work).await;
    done.unwrap_or_else(|_| Err(HostError::Deadline { action, after }.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_from_the_deepest_and_units_read_what_was_restored() {
        let directory = |path: &str| Undo::RemoveDirectory { path: path.into() };
        let start = Undo::StartUnit {
            name: "a.service".to_owned(),
        };
        let mut last = [
            start.clone(),
            directory("/a"),
            Undo::ReloadUnits,
            directory("/a/b/c"),
            directory("/a/b"),
        ];
        last.sort_by_key(last_order);
        let expected = [
            directory("/a/b/c"),
            directory("/a/b"),
            directory("/a"),
            Undo::ReloadUnits,
            start,
        ];
        assert_eq!(last, expected);
    }

    #[test]
    fn undos_go_from_the_last_to_the_first_and_units_are_loaded_once() {
        let file = |path: &str| Undo::RemoveFile { path: path.into() };
        let undos = [file("/a"), Undo::ReloadUnits, file("/b"), Undo::ReloadUnits];
        let order = in_order(&undos);
        assert_eq!(order, [&file("/b"), &file("/a"), &Undo::ReloadUnits]);
    }
}
