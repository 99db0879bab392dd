//! For property tests of what is parsed: inputs of all sizes, and a limit of processor time.
//!
//! Not here: what is parsed. Tests of pf9-comms and of the plane use it. Start with [`quickly`].

#![forbid(unsafe_code)]

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Processor time for one input. It takes a few milliseconds at most, also without optimization.
const LIMIT: Duration = Duration::from_secs(1);

/// Parses, and checks that it takes not too long. Processor time is measured: other tests run at the same time.
///
/// # Panics
/// It takes a second or more.
pub fn quickly<T>(parse: impl FnOnce() -> T) -> T {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    let began = now();
    let parsed = parse();
    let took = Duration::from(now() - began);
    assert!(took < LIMIT, "it takes {took:?}");
    parsed
}

/// A few bytes, or about as many as `limit`: any bytes and these pieces, repeated.
///
/// # Panics
/// `limit` is less than 2.
pub fn content(limit: usize, pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        1 => vec(any::<u8>(), 1..40),
        3 => select(pieces).prop_map(|piece: &str| piece.as_bytes().to_vec()),
    ];
    let length = prop_oneof![0..300_usize, limit - 2..limit + 3];
    (vec(piece, 1..8), length).prop_map(|(pieces, length)| {
        let all = pieces.concat();
        all.into_iter().cycle().take(length).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        #[test]
        fn a_content_is_short_or_as_long_as_the_limit(content in content(1000, &["a", "bc"])) {
            let length = content.len();
            prop_assert!(length < 300 || (998..=1002).contains(&length), "{} bytes", length);
        }

        #[test]
        fn what_is_parsed_is_returned(number in any::<u8>()) {
            prop_assert_eq!(quickly(|| number), number);
        }
    }
}
