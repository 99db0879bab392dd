//! Taints that a record of admission names: their text, and which ones it may name.

use crate::env::is_dns_name;
use crate::host::Taint;
use crate::kubernetes::{MASTER_LABEL, shown};

/// Most taints that a record names.
const MOST: usize = 16;
/// Longest name in a key, and longest value.
/// Source: <https://v1-20.docs.kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
const LONGEST: usize = 63;

/// Taints that Kubernetes sets and removes by itself have keys that begin so.
const TAINTS_OF_KUBERNETES: [&str; 2] =
    ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];
/// The cluster autoscaler taints nodes that it empties.
const TAINTS_OF_AUTOSCALER: [&str; 2] = [
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
];

/// Whether Kubernetes or the cluster autoscaler sets and removes taints with this key.
pub(in crate::kubernetes) fn is_automatic(key: &str) -> bool {
    let mut prefixes = TAINTS_OF_KUBERNETES.iter();
    prefixes.any(|prefix| key.starts_with(prefix)) || TAINTS_OF_AUTOSCALER.contains(&key)
}

/// Reads a taint that an operator may name: `KEY[=VALUE]:EFFECT`, as `kubectl taint` takes it, and none of Kubernetes' own.
///
/// # Errors
/// It is no such taint.
pub fn parse_taint(text: &str) -> Result<Taint, String> {
    let taint = read_taint(text)?;
    let key = &taint.key;
    if is_automatic(key) {
        return Err(format!(
            "Kubernetes or the cluster autoscaler sets and removes the taint `{key}`; choose another key"
        ));
    }
    if key == MASTER_LABEL {
        return Err(format!(
            "`{key}` is the taint of masters; choose another key"
        ));
    }
    Ok(taint)
}

/// Reads what was written as a taint.
fn read_taint(text: &str) -> Result<Taint, String> {
    let Some((named, effect)) = text.rsplit_once(':') else {
        return Err(format!("`{}` is not KEY[=VALUE]:EFFECT", shown(text)));
    };
    let (key, value) = named.split_once('=').unwrap_or((named, ""));
    if !Taint::EFFECTS.contains(&effect) {
        return Err(format!(
            "`{}` is not an effect of a taint; write {}",
            shown(effect),
            Taint::EFFECTS.join(" or ")
        ));
    }
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    let has_prefix = key.contains('/');
    if (has_prefix && !is_dns_name(prefix)) || !is_plain(name) {
        return Err(format!(
            "`{}` is not the key of a taint; write [PREFIX/]NAME, where PREFIX is a DNS name, and NAME has at most {LONGEST} letters, digits, `-`, `_` and `.`",
            shown(key)
        ));
    }
    if !value.is_empty() && !is_plain(value) {
        return Err(format!(
            "`{}` is not the value of a taint; it has at most {LONGEST} letters, digits, `-`, `_` and `.`",
            shown(value)
        ));
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    })
}

/// A name in a key, or a value: letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_plain(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let mut all = bytes.iter();
    bytes.len() <= LONGEST
        && is_end(bytes.first())
        && is_end(bytes.last())
        && all.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Checks that a record may name all these taints together.
///
/// # Errors
/// They are too many, or two have the same key and effect.
pub fn check_taints(taints: &[Taint]) -> Result<(), String> {
    if taints.len() > MOST {
        return Err(format!(
            "{} taints are too many; name at most {MOST}",
            taints.len()
        ));
    }
    are_different(taints)
}

/// Checks that no two taints have the same key and effect.
///
/// # Errors
/// Two have.
pub(super) fn are_different(taints: &[Taint]) -> Result<(), String> {
    for (at, taint) in taints.iter().enumerate() {
        if taints.iter().take(at).any(|its| its.is_same(taint)) {
            return Err(format!(
                "the taint `{}:{}` is named twice; name it once",
                taint.key, taint.effect
            ));
        }
    }
    Ok(())
}

/// Taints in one line. No taint has a comma in it.
pub(in crate::kubernetes) fn line_of(taints: &[Taint]) -> String {
    let each: Vec<String> = taints.iter().map(Taint::to_string).collect();
    each.join(",")
}

/// Reads [`line_of`] taints. Another version may have allowed keys, or more of them, that this one does not take from an operator.
///
/// # Errors
/// One of them is no taint.
pub(in crate::kubernetes) fn read_line(line: &str) -> Result<Vec<Taint>, String> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let each = line.split(',');
    each.map(|one| read_taint(one.trim())).collect()
}

/// Of the taints that earlier records named, those that a new one does not name, with any value.
pub(super) fn no_longer_named(earlier: &[Taint], new: &[Taint]) -> Vec<Taint> {
    let is_named = |taint: &Taint| new.iter().any(|its| its.is_same(taint));
    let removed = earlier.iter().filter(|taint| !is_named(taint));
    let mut removed: Vec<Taint> = removed.cloned().collect();
    removed.sort();
    removed.dedup();
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_is_read_as_it_was_written() {
        let longest = format!("{}=1:NoSchedule", "k".repeat(LONGEST));
        for text in [
            "gpu=true:NoSchedule",
            "gpu:NoExecute",
            "example.org/team_a=b.c-d:PreferNoSchedule",
            "node-role.kubernetes.io/worker:NoSchedule",
            longest.as_str(),
        ] {
            let taint = parse_taint(text).expect(text);
            assert_eq!(taint.to_string(), text);
        }
        let empty = parse_taint("gpu=:NoExecute").expect("kubectl takes it, too");
        assert_eq!(empty.to_string(), "gpu:NoExecute");
    }

    #[test]
    fn what_kubernetes_refuses_or_sets_itself_is_no_taint_of_a_record() {
        let too_long = format!("{}:NoSchedule", "k".repeat(LONGEST + 1));
        for (text, why) in [
            ("gpu", "is not KEY[=VALUE]:EFFECT"),
            ("gpu:NoSchedul", "is not an effect"),
            (":NoSchedule", "is not the key"),
            ("=1:NoSchedule", "is not the key"),
            ("/gpu:NoSchedule", "is not the key"),
            ("a/b/gpu:NoSchedule", "is not the key"),
            ("Example/gpu:NoSchedule", "is not the key"),
            ("-gpu:NoSchedule", "is not the key"),
            ("a,b:NoSchedule", "is not the key"),
            (too_long.as_str(), "is not the key"),
            ("gpu=a=b:NoSchedule", "is not the value"),
            ("gpu=-:NoSchedule", "is not the value"),
            ("node.kubernetes.io/gpu:NoSchedule", "choose another key"),
            (
                "node.cloudprovider.kubernetes.io/x:NoSchedule",
                "choose another key",
            ),
            (
                "ToBeDeletedByClusterAutoscaler:NoSchedule",
                "choose another key",
            ),
            (
                "node-role.kubernetes.io/master:NoSchedule",
                "the taint of masters",
            ),
        ] {
            let refused = parse_taint(text).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn taints_of_a_record_are_few_and_different() {
        let named = |number: usize| parse_taint(&format!("k{number}:NoSchedule")).expect("a taint");
        let mut taints: Vec<Taint> = (0..MOST).map(named).collect();
        check_taints(&taints).expect("they are not too many");
        taints.push(named(MOST));
        let refused = check_taints(&taints).expect_err("one too many");
        assert!(refused.contains("at most 16"), "{refused}");
        let same = ["a=1:NoSchedule", "a=2:NoSchedule"].map(|text| parse_taint(text).expect(text));
        let refused = check_taints(&same).expect_err("they have one key and effect");
        assert!(
            refused.contains("`a:NoSchedule` is named twice"),
            "{refused}"
        );
        let other = ["a=1:NoSchedule", "a=1:NoExecute"].map(|text| parse_taint(text).expect(text));
        check_taints(&other).expect("their effects differ");
    }
}
