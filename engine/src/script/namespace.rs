//! The constants a script sees: `host`, `cluster`, `role`, `kube`.

use std::collections::BTreeMap;
use std::rc::Rc;

use rhai::{Dynamic, Engine, EvalAltResult, ImmutableString, NativeCallContext};

use super::interpreter::dynamic;
use crate::model::{Value, closest};

/// Values by name. The error for an unknown name suggests the closest one.
#[derive(Debug, Clone)]
pub(super) struct Namespace {
    name: &'static str,
    values: Rc<BTreeMap<String, Value>>,
}

impl Namespace {
    pub(super) fn new(name: &'static str, values: BTreeMap<String, Value>) -> Self {
        Self {
            name,
            values: Rc::new(values),
        }
    }

    pub(super) fn register(engine: &mut Engine) {
        engine.register_type_with_name::<Self>("namespace");
        engine.register_indexer_get(Self::get);
    }

    fn get(
        cx: NativeCallContext,
        this: &mut Self,
        key: ImmutableString,
    ) -> Result<Dynamic, Box<EvalAltResult>> {
        if let Some(value) = this.values.get(key.as_str()) {
            return Ok(dynamic(value));
        }
        let mut message = format!("`{}` has no `{key}`", this.name);
        if let Some(name) = closest(&key, this.values.keys().map(String::as_str)) {
            message.push_str(&format!("; did you mean `{name}`?"));
        }
        Err(EvalAltResult::ErrorRuntime(message.into(), cx.call_position()).into())
    }
}
