//! The last part of a stream of unknown length.

/// Keeps the last `limit` bytes of what is pushed.
#[derive(Debug)]
pub struct Tail {
    limit: usize,
    bytes: Vec<u8>,
    /// Whether bytes were dropped.
    cut: bool,
}

impl Tail {
    /// An empty tail.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: Vec::new(),
            cut: false,
        }
    }

    /// Whether more was pushed than is kept.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut || self.bytes.len() > self.limit
    }

    /// Adds the next part of the stream.
    pub fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Cut only now and then, so that a long stream is not moved byte by byte.
        if self.bytes.len() > self.limit.saturating_mul(2) {
            let excess = self.bytes.len() - self.limit;
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// The tail as text of at most `limit` bytes; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let kept = &self.bytes[self.bytes.len().saturating_sub(self.limit)..];
        let text = String::from_utf8_lossy(kept);
        // A replacement character is longer than the byte it stands for.
        let mut start = text.len().saturating_sub(self.limit);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text[start..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;

    #[test]
    fn keeps_the_end_and_stays_within_its_limit() {
        let mut tail = Tail::new(4);
        for chunk in ["ab", "cdefghijklm", "no"] {
            tail.push(chunk.as_bytes());
        }
        assert_eq!(tail.text(), "lmno");
    }

    /// A stream may be longer than the memory of the host.
    #[test]
    fn a_long_stream_takes_little_memory() {
        let mut tail = Tail::new(100);
        for _ in 0..1000 {
            tail.push(b"ten bytes.");
            assert!(tail.bytes.len() <= 200, "{}", tail.bytes.len());
        }
        assert_eq!(tail.text(), "ten bytes.".repeat(10));
    }

    #[test]
    fn is_cut_shows_whether_output_was_dropped() {
        for (limit, pushed, cut) in [(4, 4, false), (4, 5, true), (4, 50, true), (0, 0, false)] {
            let mut tail = Tail::new(limit);
            for _ in 0..pushed {
                tail.push(b"x");
            }
            assert_eq!(tail.is_cut(), cut, "{pushed} bytes into {limit}");
        }
    }

    #[test]
    fn broken_text_is_replaced_and_still_bounded() {
        let mut tail = Tail::new(7);
        tail.push(b"\xff\xff\xff\xff\xffxy");
        assert_eq!(tail.text(), "\u{fffd}xy");
        let mut tail = Tail::new(3);
        tail.push("aöö".as_bytes());
        assert_eq!(tail.text(), "ö");
    }
}
