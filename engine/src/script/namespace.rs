//! The constants a script sees: `host`, `cluster`, `role`, `kube`.

use std::collections::BTreeMap;
use std::rc::Rc;

use rhai::{Dynamic, Engine, ImmutableString, NativeCallContext};

use super::interpreter::{SharedRecorder, Unknown, dynamic};
use crate::model::{Diagnostic, Value, closest};

/// Values by name. The finding for an unknown name suggests the closest one.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    name: &'static str,
    values: Rc<BTreeMap<String, Value>>,
    tape: SharedRecorder,
}

impl Namespace {
    pub(super) fn new(
        name: &'static str,
        values: Rc<BTreeMap<String, Value>>,
        tape: &SharedRecorder,
    ) -> Self {
        Self {
            name,
            values,
            tape: Rc::clone(tape),
        }
    }

    pub(super) fn register(engine: &mut Engine) {
        engine.register_type_with_name::<Self>("namespace");
        engine.register_indexer_get(Self::get);
    }

    fn get(cx: NativeCallContext, this: &mut Self, key: ImmutableString) -> Dynamic {
        if let Some(value) = this.values.get(key.as_str()) {
            return dynamic(value);
        }
        let mut recorder = this.tape.borrow_mut();
        let span = recorder.span(cx.call_position());
        let message = format!("`{}` has no `{key}`", this.name);
        let finding = Diagnostic::new("P0204", span, message);
        recorder.find_in_any_case(
            match closest(&key, this.values.keys().map(String::as_str)) {
                Some(name) => finding.help(format!("did you mean `{name}`?")),
                None => finding,
            },
        );
        recorder.has_unknown = true;
        Dynamic::from(Unknown)
    }
}
