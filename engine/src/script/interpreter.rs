//! The script engine: Rhai with our words, tight limits, and no function that reaches the host.
//!
//! `unknown` finds names that do not exist. Not here: what a word does (`recorder`), and the run of one script (`evaluation`). Start with
//! `engine`.

mod unknown;

pub(super) use unknown::Unknown;

use std::any::TypeId;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rhai::packages::Package as _;
use rhai::{Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, NativeCallContext};

use super::errors::{self, ScriptFunction};
use super::namespace::Namespace;
use super::recorder::{Argument, CallId, Lane, Recorder};
use super::vocabulary::{FUNCTIONS, Word};
use super::words::WORDS;
use crate::model::{Diagnostic, OutputRef, SecretRef, StepId, Value};

/// The recorder of the script that runs now.
pub(super) type SharedRecorder = Rc<RefCell<Recorder>>;

/// What a word returns to the script. Its type stands for the word, so that modifiers of other words cannot follow it.
#[derive(Debug, Clone)]
struct Handle<const K: usize>(CallId);

/// A value that is known only when the plan runs.
#[derive(Debug, Clone)]
pub(super) struct Late(pub(super) Value);

/// Limit on the processor time of one script. Words only record, so this limit is for endless loops. Wall-clock time would
/// also count the time in which a busy host or the CPU limit of status passes keeps the script from running.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// The clock is read once in this many operations: reading it costs more than most operations.
const OPERATIONS_BETWEEN_CHECKS: u64 = 64;
/// Bound on operations of one script; the largest of ours needs a few hundred.
const OPERATIONS: u64 = 200_000;

/// Calls a macro with every index of [`WORDS`].
macro_rules! for_each_word {
    ($call:ident) => {
        $call!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40)
    };
}

/// Processor time of this thread so far; zero if the kernel does not count it, so that only the limit on operations holds.
fn processor_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// Makes an engine whose words record to `shared`. Cheap: one per evaluation.
pub(super) fn engine(shared: &SharedRecorder) -> Engine {
    let mut engine = Engine::new_raw();
    rhai::packages::ArithmeticPackage::new().register_into_engine(&mut engine);
    rhai::packages::LogicPackage::new().register_into_engine(&mut engine);
    rhai::packages::BasicStringPackage::new().register_into_engine(&mut engine);
    rhai::packages::MoreStringPackage::new().register_into_engine(&mut engine);
    rhai::packages::BasicArrayPackage::new().register_into_engine(&mut engine);
    rhai::packages::BasicMapPackage::new().register_into_engine(&mut engine);
    rhai::packages::BasicIteratorPackage::new().register_into_engine(&mut engine);
    // Folding constants drops errors and statements; our scripts are too small to gain from it.
    engine.set_optimization_level(rhai::OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    engine.set_allow_shadowing(false);
    for keyword in [
        "eval", "try", "while", "loop", "do", "switch", "import", "export", "print", "debug",
    ] {
        engine.disable_symbol(keyword);
    }
    engine.set_max_operations(OPERATIONS);
    engine.set_max_call_levels(24);
    engine.set_max_expr_depths(48, 24);
    engine.set_max_string_size(256 * 1024);
    engine.set_max_array_size(4096);
    engine.set_max_map_size(1024);
    engine.set_max_functions(64);
    engine.set_max_variables(256);
    engine.set_max_modules(0);
    let started = processor_time();
    engine.on_progress(move |operations| {
        let is_due = operations % OPERATIONS_BETWEEN_CHECKS == 0;
        let is_up = is_due && processor_time().saturating_sub(started) > TIME_LIMIT;
        is_up.then(|| Dynamic::from("time is up"))
    });
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    Namespace::register(&mut engine);
    Unknown::register(&mut engine);
    register_late(&mut engine, shared);
    register_lanes(&mut engine, shared);
    super::comparison::register(&mut engine, shared);
    macro_rules! register {
        ($($k:literal)*) => { $( register_word::<$k>(&mut engine, shared); )* };
    }
    for_each_word!(register);
    engine
}

fn register_word<const K: usize>(engine: &mut Engine, shared: &SharedRecorder) {
    let word: &'static Word = &WORDS[K];
    engine.register_type_with_name::<Handle<K>>(word.name);
    let any = TypeId::of::<Dynamic>();
    let recorder = Rc::clone(shared);
    engine.register_raw_fn(word.name, vec![any; word.params.len()], move |cx, args| {
        let args = arguments(args.iter().map(|arg| &**arg), &cx, &recorder)?;
        let mut recorder = recorder.borrow_mut();
        let span = recorder.span(cx.call_position());
        Ok(Handle::<K>(recorder.word(word, args, span)))
    });
    for modifier in word.all_modifiers() {
        let mut types = vec![TypeId::of::<Handle<K>>()];
        types.extend(vec![any; modifier.params.len()]);
        let recorder = Rc::clone(shared);
        engine.register_raw_fn(modifier.name, types, move |cx, args| {
            let handle = args[0]
                .read_lock::<Handle<K>>()
                .map(|handle| handle.clone());
            let handle = handle.ok_or("a modifier follows only a word such as `file(…)`")?;
            let values = arguments(args[1..].iter().map(|arg| &**arg), &cx, &recorder)?;
            let mut recorder = recorder.borrow_mut();
            let span = recorder.span(cx.call_position());
            recorder.modify(handle.0, modifier, values, span);
            Ok(handle)
        });
    }
}

/// Registers `secret` and `output`, and refuses late values in text.
fn register_late(engine: &mut Engine, shared: &SharedRecorder) {
    engine.register_type_with_name::<Late>("late value");
    let recorder = Rc::clone(shared);
    let types = [TypeId::of::<ImmutableString>()];
    engine.register_raw_fn("secret", types, move |cx, args| {
        let name = args[0].to_string();
        let mut recorder = recorder.borrow_mut();
        let span = recorder.span(cx.call_position());
        recorder.secrets.push((name.clone(), span));
        Ok(Late(Value::Secret(SecretRef(name))))
    });
    let types = [TypeId::of::<Dynamic>(), TypeId::of::<ImmutableString>()];
    engine.register_raw_fn("output", types, |_, args| {
        let step = step_of(args[0]).ok_or(errors::OUTPUT_OF_NO_STEP)?;
        // The step has no id before it is lowered.
        Ok(Late(Value::Output(OutputRef {
            step: StepId::placeholder(step),
            field: args[1].to_string(),
        })))
    });
    for name in ["to_string", "to_debug"] {
        let recorder = Rc::clone(shared);
        engine.register_raw_fn(name, [TypeId::of::<Late>()], move |cx, args| {
            let late = args[0].read_lock::<Late>().map(|late| late.0.to_string()).unwrap_or_default();
            let mut recorder = recorder.borrow_mut();
            let span = recorder.span(cx.call_position());
            recorder.find(
                Diagnostic::new("P0302", span, "a text of a script cannot contain a secret or the output of a step")
                    .help("its value is known only when the plan runs: write the text as a template, and give it the value with `.vars`"),
            );
            Ok(late)
        });
    }
}

/// Defines a function that does not exist with this number of arguments. Each call of it is a finding, and the evaluation goes
/// on: after a wrong modifier with the step, after a wrong word with an unknown value. Rhai prefers functions with more exact
/// types, so the words with this name keep their meaning.
pub(super) fn tolerate(
    engine: &mut Engine,
    shared: &SharedRecorder,
    functions: &Rc<[ScriptFunction]>,
    name: &str,
    arguments: usize,
) {
    let types = vec![TypeId::of::<Dynamic>(); arguments];
    let recorder = Rc::clone(shared);
    let functions = Rc::clone(functions);
    let function = name.to_owned();
    engine.register_raw_fn(name, types, move |cx, args| {
        let step = args.first().and_then(|first| step_of(first));
        let follows = args.iter().any(|arg| Unknown::is_in(arg, DEPTH));
        let mut recorder = recorder.borrow_mut();
        if !follows {
            let word = step.map(|id| recorder.calls[id].word);
            let span = recorder.span(cx.call_position());
            let given = args.len();
            recorder.find_in_any_case(errors::unknown_function(
                span, &function, word, given, &functions,
            ));
        }
        recorder.has_unknown = true;
        Ok(match step {
            Some(id) => {
                recorder.calls[id].incomplete = true;
                args[0].flatten_clone()
            }
            None => Dynamic::from(Unknown),
        })
    });
}

/// Registers `on_stop`, `on_rollback` and `on_clean`: each evaluates its closure at once, and its steps go to that lane.
fn register_lanes(engine: &mut Engine, shared: &SharedRecorder) {
    for (name, lane) in [
        ("on_stop", Lane::Stop),
        ("on_rollback", Lane::Rollback),
        ("on_clean", Lane::Clean),
    ] {
        let recorder = Rc::clone(shared);
        engine.register_raw_fn(name, [TypeId::of::<FnPtr>()], move |cx, args| {
            let closure = args[0].read_lock::<FnPtr>().map(|closure| closure.clone());
            let closure = closure.ok_or("a closure such as || { … } is expected here")?;
            let before = recorder.borrow_mut().enter(lane);
            let result = closure.call_within_context::<Dynamic>(&cx, ());
            recorder.borrow_mut().leave(before);
            result.map(|_| ())
        });
    }
}

/// Turns Rhai's values into arguments.
fn arguments<'a>(
    args: impl Iterator<Item = &'a Dynamic>,
    cx: &NativeCallContext,
    shared: &SharedRecorder,
) -> Result<Vec<Argument>, Box<EvalAltResult>> {
    let has_unknown = shared.borrow().has_unknown;
    args.map(|arg| {
        if has_unknown && Unknown::is_in(arg, DEPTH) {
            return Ok(Argument::Unknown);
        }
        argument(arg, cx)
    })
    .collect()
}

fn argument(arg: &Dynamic, cx: &NativeCallContext) -> Result<Argument, Box<EvalAltResult>> {
    if let Some(step) = step_of(arg) {
        return Ok(Argument::Steps(vec![step]));
    }
    if let Some(items) = arg.read_lock::<rhai::Array>() {
        let steps: Vec<_> = items.iter().filter_map(step_of).collect();
        if !steps.is_empty() && steps.len() == items.len() {
            return Ok(Argument::Steps(steps));
        }
    }
    value(arg, 0)
        .map(Argument::Value)
        .map_err(|problem| EvalAltResult::ErrorRuntime(problem.into(), cx.call_position()).into())
}

/// Limit on the nesting of lists and maps.
const DEPTH: usize = 16;

/// Turns a Rhai value into one of ours.
pub(super) fn value(dynamic: &Dynamic, depth: usize) -> Result<Value, String> {
    if depth > DEPTH {
        return Err(format!("lists and maps are nested more than {DEPTH} deep"));
    }
    if dynamic.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(b) = dynamic.as_bool() {
        return Ok(Value::Bool(b));
    }
    if let Ok(n) = dynamic.as_int() {
        return Ok(Value::Integer(n));
    }
    if let Some(text) = dynamic.read_lock::<ImmutableString>() {
        return Ok(Value::Text(text.to_string()));
    }
    if let Some(late) = dynamic.read_lock::<Late>() {
        return Ok(late.0.clone());
    }
    if let Some(items) = dynamic.read_lock::<rhai::Array>() {
        return items
            .iter()
            .map(|item| value(item, depth + 1))
            .collect::<Result<_, _>>()
            .map(Value::List);
    }
    if let Some(fields) = dynamic.read_lock::<rhai::Map>() {
        return fields
            .iter()
            .map(|(name, field)| Ok((name.to_string(), value(field, depth + 1)?)))
            .collect::<Result<_, String>>()
            .map(Value::Map);
    }
    if step_of(dynamic).is_some() {
        return Err("a step is given where a value is expected".to_owned());
    }
    Err(format!(
        "a value of type `{}` is given where a text, number, list or map is expected",
        dynamic.type_name()
    ))
}

/// Turns one of our values into what a script sees.
pub(super) fn dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => Dynamic::from(*b),
        Value::Integer(n) => Dynamic::from(*n),
        Value::Text(text) => Dynamic::from(text.clone()),
        Value::List(items) => Dynamic::from_array(items.iter().map(dynamic).collect()),
        Value::Map(fields) => Dynamic::from_map(
            fields
                .iter()
                .map(|(name, field)| (name.as_str().into(), dynamic(field)))
                .collect(),
        ),
        late @ (Value::Secret(_) | Value::Output(_)) => Dynamic::from(Late(late.clone())),
    }
}

/// The recorded word behind a handle of any type.
fn step_of(dynamic: &Dynamic) -> Option<CallId> {
    macro_rules! try_all {
        ($($k:literal)*) => {
            $( if let Some(handle) = dynamic.read_lock::<Handle<$k>>() { return Some(handle.0); } )*
        };
    }
    for_each_word!(try_all);
    None
}

/// Whether a name is taken by the language: a script's function of that name would silently replace it.
pub(super) fn is_reserved(name: &str) -> bool {
    WORDS
        .iter()
        .any(|word| word.name == name || word.modifier(name).is_some())
        || FUNCTIONS.iter().any(|(function, ..)| *function == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_a_type() {
        macro_rules! count {
            ($($k:literal)*) => { [$($k),*].len() };
        }
        assert_eq!(for_each_word!(count), WORDS.len());
    }
}
