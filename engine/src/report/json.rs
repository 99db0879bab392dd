//! JSON for programs: events, one object per line, and plans.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use super::InOrder;
use crate::exec::{Event, EventSink};

/// Writes events as JSON lines, in the plan's order.
pub struct JsonReport<W: Write + Send> {
    order: InOrder,
    out: Mutex<W>,
}

impl<W: Write + Send> JsonReport<W> {
    /// A report to `out`.
    pub fn new(out: W) -> Self {
        Self {
            order: InOrder::default(),
            out: Mutex::new(out),
        }
    }
}

impl<W: Write + Send> EventSink for JsonReport<W> {
    fn emit(&self, event: Event) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        for event in self.order.take(event) {
            let line = serde_json::to_string(&event).expect("an event is JSON");
            // A reader that went away is no reason to stop bringing up a host.
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
    }
}

/// A plan's JSON with permission bits in octal, `"0644"` in place of 420. It can be read back as the same plan.
#[must_use]
pub fn with_octal_modes(value: Json) -> Json {
    match value {
        Json::Array(items) => items.into_iter().map(with_octal_modes).collect(),
        Json::Object(mut fields) => {
            let is_number = |name: &str| fields.get(name).is_some_and(Json::is_u64);
            // Objects of a cluster have fields of this name, too.
            let are_attributes =
                fields.len() == 3 && ["mode", "uid", "gid"].into_iter().all(is_number);
            if !are_attributes {
                let fields = fields.into_iter();
                return fields
                    .map(|(name, field)| (name, with_octal_modes(field)))
                    .collect();
            }
            if let Some(mode) = fields.get_mut("mode")
                && let Some(bits) = mode.as_u64()
            {
                *mode = Json::String(format!("{bits:04o}"));
            }
            Json::Object(fields)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::Attributes;

    #[test]
    fn modes_are_octal_in_a_report_and_can_be_read_back() {
        let attributes = Attributes::root(0o640);
        let object = json!({"mode": 420, "name": "a"});
        let value = json!({"steps": [{"attributes": attributes}], "object": object});
        let shown = with_octal_modes(value);
        assert_eq!(shown["steps"][0]["attributes"]["mode"], "0640");
        assert_eq!(shown["object"], object);
        let read: Attributes = serde_json::from_value(shown["steps"][0]["attributes"].clone())
            .expect("octal text is read");
        assert_eq!(read, attributes);
        // As records on disk have it.
        let read: Attributes =
            serde_json::from_str(r#"{"mode":416,"uid":0,"gid":0}"#).expect("a number is read");
        assert_eq!(read, attributes);
        let wrong = json!({"mode": "0689", "uid": 0, "gid": 0});
        assert!(serde_json::from_value::<Attributes>(wrong).is_err());
    }
}
