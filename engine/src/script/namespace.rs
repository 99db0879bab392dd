//! The constants a script sees: `host`, `cluster`, `role`, `kube`.

use std::collections::BTreeMap;
use std::rc::Rc;

use rhai::{Dynamic, Engine, ImmutableString, NativeCallContext};

use super::comparison::{Choices, with_choice};
use super::interpreter::{SharedRecorder, Unknown, dynamic};
use crate::model::{Diagnostic, Value, closest};

/// Values by name. The finding for an unknown name suggests the closest one.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    name: &'static str,
    values: Rc<BTreeMap<String, Value>>,
    choices: Rc<Choices>,
    recorder: SharedRecorder,
}

impl Namespace {
    pub(super) fn new(
        name: &'static str,
        values: Rc<BTreeMap<String, Value>>,
        choices: Rc<Choices>,
        recorder: &SharedRecorder,
    ) -> Self {
        Self {
            name,
            values,
            choices,
            recorder: Rc::clone(recorder),
        }
    }

    pub(super) fn register(engine: &mut Engine) {
        engine.register_type_with_name::<Self>("namespace");
        engine.register_indexer_get(Self::get);
    }

    /// Where an author finds the names.
    fn known(&self) -> String {
        match self.name {
            "kube" => "kube.env.template lists the settings".to_owned(),
            "role" => {
                "docs/role.md lists the fields of `role`; declare a parameter of this name under `parameters` in role.yaml"
                    .to_owned()
            }
            name => {
                let names: Vec<&str> = self.values.keys().map(String::as_str).collect();
                format!("`{name}` has {}", names.join(", "))
            }
        }
    }

    fn get(cx: NativeCallContext, this: &mut Self, key: ImmutableString) -> Dynamic {
        if let Some(value) = this.values.get(key.as_str()) {
            return with_choice(dynamic(value), &this.choices, this.name, &key);
        }
        let mut recorder = this.recorder.borrow_mut();
        let span = recorder.span(cx.call_position());
        let message = format!("there is no `{}.{}`", this.name, key.escape_debug());
        let meant = closest(&key, this.values.keys().map(String::as_str));
        let help = match meant {
            Some(meant) => format!("did you mean `{}.{meant}`?", this.name),
            None => this.known(),
        };
        recorder.find_in_any_case(Diagnostic::new("P0204", span, message).help(help));
        recorder.has_unknown = true;
        Dynamic::from(Unknown)
    }
}
