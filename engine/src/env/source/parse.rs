//! Reads environment files: kube.env as `render` writes it, and `kube_override.env` as operators write it.
//!
//! It accepts assignments with or without `export`, plain or quoted, and comments. It refuses everything that a shell
//! would expand or run, so that the parser and a shell that sources the file always read the same values.

use std::path::Path;

use super::layers::MAX_VALUE_BYTES;
use super::place::Place;
use crate::env::error::EnvError;

/// Largest environment file that is read, in bytes.
pub const MAX_ENV_BYTES: usize = 128 * MAX_VALUE_BYTES;

/// One `NAME=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// Its value, unquoted.
    pub value: String,
    /// The line it starts on, from 1.
    pub line: usize,
}

/// The assignments of an environment file in their order, or an error for the first text that is not one. `path` is for the message.
pub fn parse(path: &Path, content: &[u8]) -> Result<Vec<Assignment>, EnvError> {
    if content.len() > MAX_ENV_BYTES {
        return Err(EnvError::FileTooLarge {
            place: Place::file(path),
            bytes: content.len(),
            limit: MAX_ENV_BYTES,
        });
    }
    let text = std::str::from_utf8(content).map_err(|_| EnvError::NotUtf8 {
        place: Place::file(path),
    })?;
    let mut reader = Reader {
        rest: text,
        line: 1,
    };
    let mut assignments = Vec::new();
    loop {
        match reader.assignment() {
            Ok(Some(assignment)) => assignments.push(assignment),
            Ok(None) => return Ok(assignments),
            Err(message) => {
                return Err(EnvError::InvalidAssignment {
                    place: Place::line(path, reader.line),
                    message,
                });
            }
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        if character == '\n' {
            self.line += 1;
        }
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(character) = self.peek().filter(|character| wanted(*character)) {
            taken.push(character);
            self.next();
        }
        taken
    }

    fn blanks(&mut self) {
        self.take_while(is_blank);
    }

    fn comment(&mut self) {
        if self.peek() == Some('#') {
            self.take_while(|character| character != '\n');
        }
    }

    fn assignment(&mut self) -> Result<Option<Assignment>, &'static str> {
        loop {
            self.take_while(|character| is_blank(character) || character == '\n');
            self.comment();
            match self.peek() {
                None => return Ok(None),
                Some('\n') => {}
                Some(_) => break,
            }
        }
        let line = self.line;
        if let Some(rest) = self
            .rest
            .strip_prefix("export")
            .filter(|rest| rest.starts_with(is_blank))
        {
            self.rest = rest;
            self.blanks();
        }
        let name =
            self.take_while(|character| character.is_ascii_alphanumeric() || character == '_');
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err("expected `NAME=value`");
        }
        if self.next() != Some('=') {
            // Taking the newline has counted a line, so the message gets the line from before.
            self.line = line;
            return Err("expected `=` after the name");
        }
        let value = self.value()?;
        let blanks = self.take_while(is_blank);
        if !blanks.is_empty() {
            self.comment();
        }
        match self.peek() {
            None | Some('\n') => Ok(Some(Assignment { name, value, line })),
            Some(_) => Err(
                "expected the end of the line after the value; quote values with special characters",
            ),
        }
    }

    /// Joins adjacent plain, single-quoted and double-quoted pieces, as a shell does.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        loop {
            match self.peek() {
                Some('"') => self.double_quoted(&mut value)?,
                Some('\'') => self.single_quoted(&mut value)?,
                Some(character) if is_plain(character) => {
                    value.push(character);
                    self.next();
                }
                _ => return Ok(value),
            }
        }
    }

    fn single_quoted(&mut self, value: &mut String) -> Result<(), &'static str> {
        let opened = self.line;
        self.next();
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(character) => value.push(character),
                None => {
                    self.line = opened;
                    return Err("the quote is not closed");
                }
            }
        }
    }

    fn double_quoted(&mut self, value: &mut String) -> Result<(), &'static str> {
        let opened = self.line;
        self.next();
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$' | '`') => {
                    return Err("expansion is not supported; escape `$` and backticks");
                }
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(escaped @ ('\\' | '"' | '$' | '`')) => value.push(escaped),
                    Some(other) => value.extend(['\\', other]),
                    None => {}
                },
                Some(character) => value.push(character),
                None => {
                    self.line = opened;
                    return Err("the quote is not closed");
                }
            }
        }
    }
}

fn is_blank(character: char) -> bool {
    character == ' ' || character == '\t'
}

/// Characters that mean themselves to every shell, anywhere in an assignment's value.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_-./:,@%+=".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The assignments as `NAME=value@line`, or the message.
    fn check(text: &str, expected: &[&str]) {
        let found = match parse(Path::new("f"), text.as_bytes()) {
            Ok(assignments) => assignments
                .iter()
                .map(|a| format!("{}={:?}@{}", a.name, a.value, a.line))
                .collect(),
            Err(problem) => vec![problem.to_string()],
        };
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn reads_what_people_write() {
        check("", &[]);
        check(
            "# c\n\n  \t\nexport A=\"1\"\nB='x y' # c\nC=\nD=a\"b\"'c'\n",
            &["A=\"1\"@4", "B=\"x y\"@5", "C=\"\"@6", "D=\"abc\"@7"],
        );
        check("A=\"x\ny\"\nB=1", &["A=\"x\\ny\"@1", "B=\"1\"@3"]);
        check(r#"A="\$\`\"\\\n""#, &[r#"A="$`\"\\\\n"@1"#]);
    }

    #[test]
    fn refuses_what_a_shell_would_run_or_expand() {
        let expansion = |line| {
            format!(
                "f:{line}: invalid environment file: expansion is not supported; escape `$` and backticks"
            )
        };
        check("A=\"$(id)\"", &[&expansion(1)]);
        check("\nA=\"`id`\"", &[&expansion(2)]);
        let ending = "f:1: invalid environment file: expected the end of the line after the value; quote values with special characters";
        for text in [
            "A=$B", "A=a;id", "A=~", "A=a b", "A=a&", "A=a|b", "A=*", "A=\\x", "A=a#b", "A=a\r\n",
        ] {
            check(text, &[ending]);
        }
        check(
            "A",
            &["f:1: invalid environment file: expected `=` after the name"],
        );
        check(
            "A\nB=1",
            &["f:1: invalid environment file: expected `=` after the name"],
        );
        check(
            "id; A=1",
            &["f:1: invalid environment file: expected `=` after the name"],
        );
        check(
            "1=1",
            &["f:1: invalid environment file: expected `NAME=value`"],
        );
        check(
            "A=1\nB='\n\n",
            &["f:2: invalid environment file: the quote is not closed"],
        );
    }
}
