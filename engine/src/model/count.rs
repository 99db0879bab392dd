//! Numbers with the noun that they count.

/// A number with a regular noun: `1 check`, `2 checks`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_none_is_plural() {
        let all = [0, 1, 2].map(|number| count(number, "check"));
        assert_eq!(all, ["0 checks", "1 check", "2 checks"]);
    }
}
