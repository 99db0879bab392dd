//! The value of an expression that contains a mistake.

use rhai::{Dynamic, Engine, INT, ImmutableString};

/// The value of an unknown name. It fits each type, so one mistake gives one finding and the evaluation goes on.
#[derive(Debug, Clone)]
pub(in crate::script) struct Unknown;

/// What an unknown value becomes inside a text. Scripts do not contain it: no argument may have a zero character.
const TEXT: &str = "\0unknown\0";

impl Unknown {
    /// Registers what a script may do with it.
    pub(super) fn register(engine: &mut Engine) {
        engine.register_type_with_name::<Self>("unknown value");
        engine.register_fn("to_string", text);
        engine.register_fn("to_debug", text);
        engine.register_indexer_get(field);
        engine.register_indexer_get(item);
        engine.register_fn("!", not);
        for operator in ["==", "!=", "<", "<=", ">", ">="] {
            engine.register_fn(operator, compared);
            engine.register_fn(operator, compared_with);
        }
    }

    /// Whether a value is unknown or contains an unknown value, down to this depth.
    pub(super) fn is_in(value: &Dynamic, depth: usize) -> bool {
        if value.read_lock::<Self>().is_some() {
            return true;
        }
        if let Some(text) = value.read_lock::<ImmutableString>() {
            return text.as_str().contains(TEXT);
        }
        let Some(depth) = depth.checked_sub(1) else {
            return false;
        };
        if let Some(items) = value.read_lock::<rhai::Array>() {
            return items.iter().any(|item| Self::is_in(item, depth));
        }
        value
            .read_lock::<rhai::Map>()
            .is_some_and(|fields| fields.values().any(|field| Self::is_in(field, depth)))
    }
}

fn text(_: &mut Unknown) -> ImmutableString {
    TEXT.into()
}

fn field(_: &mut Unknown, _: ImmutableString) -> Unknown {
    Unknown
}

fn item(_: &mut Unknown, _: INT) -> Unknown {
    Unknown
}

fn not(_: &mut Unknown) -> Unknown {
    Unknown
}

fn compared(_: &mut Unknown, _: Dynamic) -> bool {
    false
}

fn compared_with(_: Dynamic, _: Unknown) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_value_is_found_in_texts_lists_and_maps() {
        let list = Dynamic::from_array(vec![Dynamic::from(1_i64), Dynamic::from(Unknown)]);
        assert!(Unknown::is_in(&Dynamic::from(Unknown), 0));
        assert!(Unknown::is_in(&Dynamic::from(format!("/etc/{TEXT}")), 0));
        assert!(Unknown::is_in(&list, 1));
        assert!(!Unknown::is_in(&list, 0));
        assert!(!Unknown::is_in(&Dynamic::from("/etc"), 1));
        assert!(!Unknown::is_in(&Dynamic::from(1_i64), 1));
    }
}
