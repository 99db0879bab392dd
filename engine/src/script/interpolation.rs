//! `${…}` in a text with double quotes. Rhai replaces it only in backticks, so a path would contain it as it is written.

use super::vocabulary::{Arg, Param, TextKind};
use crate::model::{Diagnostic, Span, Value};

/// The constants that a script reads. Neither a shell nor systemd has variables with a dot in their names, so `${host.` in a
/// text always means a constant.
const CONSTANTS: [&str; 4] = ["host", "cluster", "role", "kube"];

/// A finding if an argument of `name` contains `${…}` that was not replaced. The content of files, commands and free values may
/// contain variables of a shell.
pub(super) fn unreplaced(
    name: &str,
    param: &Param,
    value: &Value,
    span: &Span,
) -> Option<Diagnostic> {
    let may_be_shell = matches!(param.arg, Arg::AnyText | Arg::Map | Arg::AnyList)
        || param.text == TextKind::Command;
    let is_wrong = |text: &str| text.contains("${") && (!may_be_shell || names_a_constant(text));
    let text = find(value, &is_wrong)?;
    let message = format!(
        "`{name}` gets the characters `${{`: a script replaces `${{…}}` only in backticks, not in double quotes"
    );
    let help = if text.chars().count() > 60 || text.contains('\n') {
        "write the text in backticks".to_owned()
    } else {
        format!("write the text in backticks: `{text}`")
    };
    Some(Diagnostic::new("P0350", span.clone(), message).help(help))
}

fn names_a_constant(text: &str) -> bool {
    let names = text.split("${").skip(1);
    names
        .filter_map(|rest| rest.split_once('.'))
        .any(|(name, _)| CONSTANTS.contains(&name.trim()))
}

/// The first text in a value that is wrong.
fn find<'v>(value: &'v Value, is_wrong: &dyn Fn(&str) -> bool) -> Option<&'v str> {
    match value {
        Value::Text(text) => is_wrong(text).then_some(text.as_str()),
        Value::List(items) => items.iter().find_map(|item| find(item, is_wrong)),
        Value::Map(fields) => fields.values().find_map(|field| find(field, is_wrong)),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Secret(_) | Value::Output(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(param: Param, value: &Value) -> bool {
        unreplaced("word", &param, value, &Span::new("a.rhai", 1, 1)).is_some()
    }

    #[test]
    fn a_path_has_no_variables_and_a_command_may_have_those_of_a_shell() {
        let path = Param {
            name: "path",
            arg: Arg::Path,
            text: TextKind::Plain,
        };
        let argv = Param {
            name: "argv",
            arg: Arg::Texts,
            text: TextKind::Command,
        };
        let names = Param {
            name: "names",
            arg: Arg::Texts,
            text: TextKind::Plain,
        };
        let content = Param {
            name: "text",
            arg: Arg::AnyText,
            text: TextKind::Content,
        };
        let list = |text: &str| Value::List(vec![Value::from("sh"), Value::from(text)]);
        assert!(finds(path, &Value::from("/etc/${host.name}")));
        assert!(finds(path, &Value::from("/etc/${base}")));
        assert!(!finds(path, &Value::from("/etc/$base")));
        assert!(finds(names, &list("${base}")));
        assert!(finds(argv, &list("echo ${ kube.MTU_SIZE }")));
        assert!(!finds(argv, &list("echo ${HOME}. ${host}")));
        assert!(finds(content, &Value::from("name: ${host.name}\n")));
        assert!(!finds(content, &Value::from("exec \"${PROGRAM}\"\n")));
    }
}
