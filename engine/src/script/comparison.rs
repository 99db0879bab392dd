//! Operators between values of different types.
//!
//! For Rhai, a number and a text are always different, and a list that is joined to a text becomes text such as `["a"]`. A
//! script means neither, so both are findings here. The evaluation goes on with Rhai's own result, so that one run finds
//! every mistake.
//!
//! A value that can only be one of a few texts carries the number of its choice as a tag. So a comparison with another text is a finding.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rhai::{Array, Dynamic, Engine, INT, ImmutableString, Map};

use super::recorder::Recorder;
use crate::model::{Diagnostic, closest};

/// The texts that a value can be, by its name in scripts, such as `kube.KUBE_PROXY_MODE`.
pub(super) type Choices = BTreeMap<String, Vec<String>>;

/// Longest text that a message quotes, in characters.
const QUOTED: usize = 40;

/// Registers the operators.
pub(super) fn register(engine: &mut Engine, shared: &Rc<RefCell<Recorder>>) {
    // The fast operators do not look at registered functions.
    engine.set_fast_operators(false);
    let text = TypeId::of::<ImmutableString>();
    let number = TypeId::of::<INT>();
    let list = TypeId::of::<Array>();
    let map = TypeId::of::<Map>();
    let kinds = [text, number, TypeId::of::<bool>(), list];
    for left in kinds {
        for right in kinds.into_iter().filter(|right| *right != left) {
            compare(engine, shared, "==", [left, right], false);
            compare(engine, shared, "!=", [left, right], true);
        }
    }
    for operator in ["<", "<=", ">", ">="] {
        compare(engine, shared, operator, [text, number], false);
        compare(engine, shared, operator, [number, text], false);
    }
    for pair in [[text, list], [list, text], [text, map], [map, text]] {
        join(engine, shared, "+", pair);
    }
    for pair in [[text, list], [text, map]] {
        join(engine, shared, "+=", pair);
    }
}

/// Registers a comparison that is a finding, and has this result.
fn compare(
    engine: &mut Engine,
    shared: &Rc<RefCell<Recorder>>,
    operator: &'static str,
    types: [TypeId; 2],
    result: bool,
) {
    let recorder = Rc::clone(shared);
    engine.register_raw_fn(operator, types, move |cx, args| {
        let (left, right) = (&*args[0], &*args[1]);
        if !asks_for_nothing(left, right) && !asks_for_nothing(right, left) {
            let message = format!(
                "`{operator}` compares {} with {}, which has another type",
                describe(left),
                describe(right)
            );
            let mut recorder = recorder.borrow_mut();
            let span = recorder.span(cx.call_position());
            recorder.find_in_any_case(
                Diagnostic::new("P0351", span, message).help(comparable(left, right)),
            );
        }
        Ok(result)
    });
}

/// Registers a joining of texts that is a finding.
fn join(
    engine: &mut Engine,
    shared: &Rc<RefCell<Recorder>>,
    operator: &'static str,
    types: [TypeId; 2],
) {
    let recorder = Rc::clone(shared);
    engine.register_raw_fn(operator, types, move |cx, args| {
        let (left, right) = (&*args[0], &*args[1]);
        let message = format!(
            "`{operator}` joins {} and {}: the result would not be what you mean",
            describe(left),
            describe(right)
        );
        let mut recorder = recorder.borrow_mut();
        let span = recorder.span(cx.call_position());
        recorder.find(Diagnostic::new("P0352", span, message).help(
            "join texts with texts and lists with lists; to join the items of a list, pass the list to a template with `.vars`",
        ));
        Ok(format!("{left}{right}"))
    });
}

/// The value of `space.name`. If it has a choice, the value carries its number, counted from 1. Rhai keeps it until the value is stored
/// in a variable or becomes part of another one.
pub(super) fn with_choice(
    mut value: Dynamic,
    choices: &Choices,
    space: &str,
    name: &str,
) -> Dynamic {
    let of_name = |one: &String| one.split_once('.') == Some((space, name));
    let number = choices.keys().position(of_name);
    if let Some(tag) = number.and_then(|number| number.checked_add(1)?.try_into().ok()) {
        value.set_tag(tag);
    }
    value
}

/// Registers the comparisons of two texts, where one may have a choice that the other is not in.
pub(super) fn register_choices(
    engine: &mut Engine,
    shared: &Rc<RefCell<Recorder>>,
    choices: &Rc<Choices>,
) {
    let text = TypeId::of::<ImmutableString>();
    for (operator, equal) in [("==", true), ("!=", false)] {
        let (recorder, choices) = (Rc::clone(shared), Rc::clone(choices));
        engine.register_raw_fn(operator, [text, text], move |cx, args| {
            let (left, right) = (&*args[0], &*args[1]);
            let (one, other) = (text_of(left), text_of(right));
            let finding = impossible(&choices, operator, left, right)
                .or_else(|| impossible(&choices, operator, right, left));
            if let Some((message, help)) = finding {
                let mut recorder = recorder.borrow_mut();
                let span = recorder.span(cx.call_position());
                recorder.find_in_any_case(Diagnostic::new("P0368", span, message).help(help));
            }
            Ok((one == other) == equal)
        });
    }
}

/// Message and help for a comparison of a value that has a choice with a text that is not in it.
fn impossible(
    choices: &Choices,
    operator: &str,
    value: &Dynamic,
    other: &Dynamic,
) -> Option<(String, String)> {
    let number = usize::try_from(value.tag()).ok()?.checked_sub(1)?;
    let (name, allowed) = choices.iter().nth(number)?;
    let (value, other) = (text_of(value)?, text_of(other)?);
    let is_allowed = |text: &String| allowed.contains(text);
    // A text that was extended in its place still has the tag.
    if !is_allowed(&value) || is_allowed(&other) {
        return None;
    }
    let help = match closest(&other, allowed.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => {
            let known: Vec<String> = allowed.iter().map(|one| format!("{one:?}")).collect();
            format!("it is one of {}", known.join(", "))
        }
    };
    let other = describe(&Dynamic::from(other));
    let message = format!("`{operator}` compares `{name}` with {other}, which it never is");
    Some((message, help))
}

/// Whether a number is compared with the empty text. A setting that is a number is the empty text as long as it is not set.
fn asks_for_nothing(number: &Dynamic, text: &Dynamic) -> bool {
    number.as_int().is_ok() && text_of(text).is_some_and(|text| text.is_empty())
}

fn text_of(value: &Dynamic) -> Option<String> {
    let text = value.read_lock::<ImmutableString>()?;
    Some(text.to_string())
}

/// A value, as a message names it.
fn describe(value: &Dynamic) -> String {
    if let Some(text) = text_of(value) {
        let mut short: String = text.chars().take(QUOTED).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        return format!("the text {short:?}");
    }
    if let Ok(number) = value.as_int() {
        return format!("the number {number}");
    }
    if let Ok(flag) = value.as_bool() {
        return format!("the value {flag}");
    }
    if value.is_array() {
        "a list".to_owned()
    } else {
        "a map".to_owned()
    }
}

/// What to compare with instead.
fn comparable(left: &Dynamic, right: &Dynamic) -> String {
    let text = text_of(left).or_else(|| text_of(right));
    let other = |fits: fn(&Dynamic) -> bool| fits(left) || fits(right);
    match text {
        Some(text) if other(|value| value.as_int().is_ok()) && text.parse::<INT>().is_ok() => {
            format!("compare with a number: {text}")
        }
        Some(text) if other(|value| value.as_bool().is_ok()) && text.parse::<bool>().is_ok() => {
            format!("write it without quotes: {text}")
        }
        _ if other(Dynamic::is_array) => {
            "compare with a list, such as [] or [\"a\"]; `.contains(…)` looks for one item"
                .to_owned()
        }
        _ => "compare values of the same type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings of an expression, and its result.
    fn evaluate(script: &str) -> (Vec<String>, Dynamic) {
        use rhai::packages::Package as _;
        let shared = Rc::new(RefCell::new(Recorder::new("phases/example.rhai")));
        let mut engine = Engine::new_raw();
        rhai::packages::ArithmeticPackage::new().register_into_engine(&mut engine);
        rhai::packages::LogicPackage::new().register_into_engine(&mut engine);
        rhai::packages::MoreStringPackage::new().register_into_engine(&mut engine);
        rhai::packages::BasicArrayPackage::new().register_into_engine(&mut engine);
        engine.set_optimization_level(rhai::OptimizationLevel::None);
        register(&mut engine, &shared);
        let result = engine.eval::<Dynamic>(script).expect(script);
        let mut recorder = shared.borrow_mut();
        let mut findings = std::mem::take(&mut recorder.findings);
        findings.append(&mut recorder.in_any_case);
        (findings.iter().map(Diagnostic::short).collect(), result)
    }

    #[test]
    fn values_of_one_type_are_compared_and_joined_as_usual() {
        for (script, result) in [
            ("443 == 443 && 443 != 6443 && 2 > 1 && -1 < 0", true),
            (r#""a" == "a" && "a" != "b" && "a" < "b""#, true),
            (r#"["a"] + ["b"] == ["a", "b"] && ["a"] != []"#, true),
            (r#"true == true && !false && "a" + "b" == "ab""#, true),
            (r#""port " + 443 == "port 443" && `${443}` == "443""#, true),
            // A setting that is not set.
            (r#"1450 == """#, false),
            (r#""" != 1450 && [1, 2].contains(2)"#, true),
            (
                r#"let text = "a"; text += "b"; let n = 1; n += 1; text == "ab" && n == 2"#,
                true,
            ),
        ] {
            let (findings, told) = evaluate(script);
            assert!(findings.is_empty(), "{script}: {findings:?}");
            assert_eq!(told.as_bool(), Ok(result), "{script}");
        }
    }

    /// The findings of a script in which `mode` is `iptables`, and can be `ipvs`.
    fn findings_with_choice(script: &str) -> Vec<String> {
        let shared = Rc::new(RefCell::new(Recorder::new("phases/example.rhai")));
        let words = vec!["iptables".to_owned(), "ipvs".to_owned()];
        let choices = Rc::new(Choices::from([
            ("kube.MODE".to_owned(), words),
            ("role.pace".to_owned(), vec!["slow".to_owned()]),
        ]));
        let mut engine = Engine::new();
        register(&mut engine, &shared);
        register_choices(&mut engine, &shared, &choices);
        let mode = with_choice(Dynamic::from("iptables"), &choices, "kube", "MODE");
        let mut scope = rhai::Scope::new();
        scope.push_dynamic("mode", mode);
        engine.run_with_scope(&mut scope, script).expect(script);
        let recorder = shared.borrow();
        recorder.in_any_case.iter().map(Diagnostic::short).collect()
    }

    #[test]
    fn a_comparison_with_a_text_that_is_no_choice_is_a_finding() {
        for (script, says) in [
            (
                r#"mode == "ipvss""#,
                r#"`==` compares `kube.MODE` with the text "ipvss", which it never is"#,
            ),
            (
                r#""userspace" != mode"#,
                r#"it is one of "iptables", "ipvs""#,
            ),
            (r#"mode == "IPVS""#, "`kube.MODE`"),
            (r#"if mode == "" { 1 } else { 2 }"#, "with the text \"\""),
        ] {
            let findings = findings_with_choice(script);
            assert_eq!(findings.len(), 1, "{script}: {findings:?}");
            assert!(findings[0].contains("P0368"), "{script}: {findings:?}");
            assert!(findings[0].contains(says), "{script}: {findings:?}");
        }
        for script in [
            r#"mode == "ipvs" || mode != "iptables""#,
            r#""iptables" == mode && mode == mode"#,
            r#"(mode + "-x") == "iptables-x""#,
            r#"mode += "-x"; mode == "iptables-x""#,
            r#"mode == 5"#,
        ] {
            let findings = findings_with_choice(script);
            let codes: Vec<_> = findings
                .iter()
                .filter(|one| one.contains("P0368"))
                .collect();
            assert!(codes.is_empty(), "{script}: {findings:?}");
        }
    }

    #[test]
    fn values_of_different_types_are_a_finding() {
        for (script, says) in [
            (r#"443 == "443""#, "compare with a number: 443"),
            (
                r#""443" != 443"#,
                "`!=` compares the text \"443\" with the number 443",
            ),
            (r#"443 < "6443""#, "compare with a number: 6443"),
            (r#"true == "true""#, "write it without quotes: true"),
            (r#"[] == """#, "compare with a list"),
            (r#"1 == true"#, "compare values of the same type"),
            (r#""a" + ["b"]"#, "`+` joins the text \"a\" and a list"),
            (r#"let text = "a"; text += ["b"]; text"#, "`+=` joins"),
        ] {
            let (findings, _) = evaluate(script);
            assert_eq!(findings.len(), 1, "{script}: {findings:?}");
            assert!(findings[0].contains(says), "{script}: {findings:?}");
            assert!(
                findings[0].starts_with("phases/example.rhai:1:"),
                "{findings:?}"
            );
        }
    }
}
