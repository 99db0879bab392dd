//! "Did you mean": the nearest known word. Pure; the callers decide how to say it.

use super::keys::KEYS;

/// Words less alike than this (0 to 1) are no suggestion; found by trying common slips on the table.
const LIKENESS: f64 = 0.6;

/// Longer words than this are not compared; distance is quadratic and no key comes near.
const LONGEST: usize = 64;

/// The known key that `name` most likely means, in any case; `None` where nothing is near.
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
    fn slips_find_their_key_and_strangers_find_none() {
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
