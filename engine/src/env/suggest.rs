//! "Did you mean": the nearest known word. Pure; the callers write the message.

use super::keys::KEYS;

/// A word that is less similar than this (0 to 1) is not suggested. Found by trying common typing errors on the table.
const LIKENESS: f64 = 0.6;

/// Longer words are not compared: the distance takes quadratic time, and no key is nearly as long.
const LONGEST: usize = 64;

/// The known key that `name` most likely means, in upper or lower case; `None` if no key is similar.
pub fn closest(name: &str) -> Option<&'static str> {
    closest_word(&name.to_uppercase(), KEYS.iter().map(|key| key.name))
}

/// The nearest of `words` to `text`.
pub(crate) fn closest_word(
    text: &str,
    words: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    if text.len() > LONGEST {
        return None;
    }
    words
        .map(|word| (strsim::normalized_damerau_levenshtein(text, word), word))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn misspelt_keys_are_suggested_and_unknown_ones_are_not() {
        for (slip, key) in [
            ("K8S_API_PROT", Some("K8S_API_PORT")),
            ("k8s_api_port", Some("K8S_API_PORT")),
            ("API_PORT", Some("K8S_API_PORT")),
            ("MASTER_VIP_INTERFACE", Some("MASTER_VIP_IFACE")),
            ("SERVICE_CIDR", Some("SERVICES_CIDR")),
            ("GRAVITY", None),
            ("", None),
        ] {
            assert_eq!(closest(slip), key, "{slip}");
        }
    }
}
