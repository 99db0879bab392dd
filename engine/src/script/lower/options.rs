//! Reading the recorded arguments and modifiers of one word.
//!
//! The types were checked when the script was recorded, so an accessor returns nothing for a value of another type.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Diagnostic, Span, StepId, Value};
use crate::plan::SkippedWord;
use crate::script::recorder::{
    Argument, Call, CallId, RecordedOption, parse_duration, parse_mode, parse_size,
};
use crate::script::vocabulary::WordKind;

/// One word with its modifiers.
pub(super) struct Options<'a> {
    call: &'a Call,
    ids: &'a BTreeMap<CallId, StepId>,
    paths: &'a BTreeMap<CallId, Vec<PathBuf>>,
}

impl<'a> Options<'a> {
    pub(super) fn new(
        call: &'a Call,
        ids: &'a BTreeMap<CallId, StepId>,
        paths: &'a BTreeMap<CallId, Vec<PathBuf>>,
    ) -> Self {
        Self { call, ids, paths }
    }

    /// The map of each use of a repeatable modifier that takes one, with the position of the use.
    pub(super) fn repeated_maps(
        &self,
        name: &str,
    ) -> impl Iterator<Item = (Span, BTreeMap<String, Value>)> {
        self.options(name)
            .filter_map(|option| match option.args.first()?.value()? {
                Value::Map(fields) => Some((option.span.clone(), fields.clone())),
                _ => None,
            })
    }

    /// Whether the word has `.when(false)`, or a `.when` whose condition contains a mistake.
    pub(super) fn left_out(&self) -> bool {
        let mut conditions = self.options("when").flat_map(|option| &option.args);
        self.call.word.kind() != WordKind::Header
            && conditions.any(|condition| match condition {
                Argument::Value(value) => *value == Value::Bool(false),
                Argument::Unknown => true,
                Argument::Steps(_) => false,
            })
    }

    /// The word as a plan shows it if it is left out.
    pub(super) fn skipped(&self) -> SkippedWord {
        let label = self.text_argument(0);
        let label = label.or_else(|| Some(self.texts_argument(0)?.join(" ")));
        let mut label = label.unwrap_or_default();
        // Findings about a skipped word are not reported, so its name may have control characters.
        if label.contains(char::is_control) {
            label = label.escape_debug().to_string();
        }
        SkippedWord {
            word: self.call.word.name.to_owned(),
            label,
            span: self.call.span.clone(),
            reason: format!("the condition at {} is false", self.span("when")),
        }
    }

    fn options(&self, name: &str) -> impl Iterator<Item = &'a RecordedOption> {
        self.call
            .options
            .iter()
            .filter(move |option| option.modifier.name == name)
    }

    /// Whether the word has a modifier.
    pub(super) fn has(&self, name: &str) -> bool {
        self.options(name).next().is_some()
    }

    /// The position of a modifier, or of the word if it has none.
    pub(super) fn span(&self, name: &str) -> Span {
        self.options(name)
            .next()
            .map_or_else(|| self.call.span.clone(), |o| o.span.clone())
    }

    /// First argument of a modifier.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        self.values(name).into_iter().next()
    }

    /// All arguments of a modifier, with placeholders replaced by step ids.
    pub(super) fn values(&self, name: &str) -> Vec<Value> {
        let Some(option) = self.options(name).next() else {
            return Vec::new();
        };
        option
            .args
            .iter()
            .filter_map(Argument::value)
            .map(|value| self.resolved(value))
            .collect()
    }

    /// All arguments of a modifier that takes `N` texts.
    pub(super) fn all_texts<const N: usize>(&self, name: &str) -> Option<[String; N]> {
        let texts = self.values(name).into_iter().map(|value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        });
        texts.collect::<Option<Vec<_>>>()?.try_into().ok()
    }

    /// The arguments of each use of a repeatable modifier.
    pub(super) fn repeated(&self, name: &str) -> Vec<Vec<String>> {
        self.options(name)
            .map(|option| {
                option
                    .args
                    .iter()
                    .filter_map(|arg| match arg.value() {
                        Some(Value::Text(text)) => Some(text.clone()),
                        _ => None,
                    })
                    .collect()
            })
            .collect()
    }

    /// An argument of the word itself.
    pub(super) fn text_argument(&self, index: usize) -> Option<String> {
        match self.call.args.get(index)?.value()? {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// A list argument of the word itself.
    pub(super) fn texts_argument(&self, index: usize) -> Option<Vec<String>> {
        texts(self.call.args.get(index)?.value()?)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        texts(&self.value(name)?)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            Value::Integer(n) => Some(n),
            _ => None,
        }
    }

    pub(super) fn map(&self, name: &str) -> Option<BTreeMap<String, Value>> {
        match self.value(name)? {
            Value::Map(fields) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.texts(name)
            .unwrap_or_default()
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    pub(super) fn ports(&self, name: &str) -> Vec<u16> {
        match self.value(name) {
            Some(Value::List(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Value::Integer(n) => u16::try_from(*n).ok(),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn mode(&self) -> Option<u32> {
        parse_mode(&self.text("mode")?)
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(&self.text(name)?)
    }

    /// A duration in seconds, or `default` without the modifier. A fraction of a second is a finding, because it would be dropped.
    pub(super) fn seconds(&self, name: &str, default: u64, findings: &mut Vec<Diagnostic>) -> u64 {
        let Some(duration) = self.duration(name) else {
            return default;
        };
        if duration.subsec_nanos() > 0 {
            findings.push(
                Diagnostic::new(
                    "P0360",
                    self.span(name),
                    format!("`.{name}` of this word counts whole seconds"),
                )
                .help(format!("write \"{}s\"", duration.as_secs() + 1)),
            );
        }
        duration.as_secs()
    }

    pub(super) fn size(&self, name: &str, index: usize) -> Option<u64> {
        match self.values(name).get(index)? {
            Value::Text(text) => parse_size(text),
            _ => None,
        }
    }

    pub(super) fn retry(&self) -> Option<(u32, Duration)> {
        match self.values("retry").as_slice() {
            [Value::Integer(tries), Value::Text(every)] => {
                Some((u32::try_from(*tries).ok()?, parse_duration(every)?))
            }
            _ => None,
        }
    }

    /// Ids of the steps a modifier names.
    pub(super) fn step_ids(&self, name: &str) -> Vec<StepId> {
        self.steps(name)
            .filter_map(|id| self.ids.get(&id).cloned())
            .collect()
    }

    /// Files of the steps a modifier names.
    pub(super) fn step_paths(&self, name: &str) -> Vec<PathBuf> {
        self.steps(name)
            .filter_map(|id| self.paths.get(&id))
            .flatten()
            .cloned()
            .collect()
    }

    /// Files whose change causes a restart: those of the steps in `restart_on`, and the paths in `reads`.
    pub(super) fn restart_inputs(&self) -> Vec<PathBuf> {
        let mut inputs = self.step_paths("restart_on");
        inputs.extend(
            self.texts("reads")
                .unwrap_or_default()
                .into_iter()
                .map(PathBuf::from),
        );
        inputs
    }

    fn steps(&self, name: &str) -> impl Iterator<Item = CallId> {
        self.options(name)
            .flat_map(|option| &option.args)
            .flat_map(|arg| match arg {
                Argument::Steps(steps) => steps.clone(),
                Argument::Value(_) | Argument::Unknown => Vec::new(),
            })
    }

    /// The value, with step ids instead of placeholders in its outputs.
    fn resolved(&self, value: &Value) -> Value {
        match value {
            Value::List(items) => Value::List(items.iter().map(|i| self.resolved(i)).collect()),
            Value::Map(fields) => Value::Map(
                fields
                    .iter()
                    .map(|(name, field)| (name.clone(), self.resolved(field)))
                    .collect(),
            ),
            Value::Output(output) => {
                let mut output = output.clone();
                if let Some(id) = output
                    .step
                    .placeholder_index()
                    .and_then(|i| self.ids.get(&i))
                {
                    output.step = id.clone();
                }
                Value::Output(output)
            }
            other => other.clone(),
        }
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let Value::List(items) = value else {
        return None;
    };
    items
        .iter()
        .map(|item| match item {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}
