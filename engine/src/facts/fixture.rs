//! Facts as a YAML file.

use super::fact_query::FactQuery;
use super::model::Facts;
use super::plausible;
use super::preflight::Requirement;
use crate::model::old_records;
use crate::yaml;

/// Facts that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The text is no facts file; the cause names line and column.
    #[error("read facts (`nodelet facts > FILE` on a host writes a good one)")]
    Read(#[source] serde_yaml::Error),
    /// Brackets are nested deeper than in any facts file.
    #[error(
        "read facts: line {line}: brackets nested more than {limit} deep (`nodelet facts > FILE` on a host writes a good file)"
    )]
    TooDeep {
        /// Where that is.
        line: usize,
        /// The limit.
        limit: usize,
    },
    /// A value is not one that a host can have.
    #[error(
        "read facts: {}`{key}` {problem} (`nodelet facts > FILE` on a host writes a good file)",
        shown_line(*.line)
    )]
    Wrong {
        /// Where that is, if it is known.
        line: Option<usize>,
        /// The path of the value, for example `disks[1].mode`.
        key: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// The file is of a version this program does not know.
    #[error(
        "read facts: they are of version {found}; this program reads version {}",
        Facts::VERSION
    )]
    Version {
        /// The file's version.
        found: u32,
    },
    /// The facts cannot be written.
    #[error("write facts")]
    Write(#[source] serde_yaml::Error),
}

/// A line as a message names it before the mistake; nothing if the line is not known.
fn shown_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!("line {line}: "))
}

/// The one key that is read first, so that a newer file is refused for its version and not for its keys.
#[derive(serde::Deserialize)]
struct Header {
    version: u32,
}

impl Facts {
    /// Reads facts from YAML.
    ///
    /// # Errors
    /// The text is not facts, or of another version, or has a value that no host can have.
    pub fn from_yaml(text: &str) -> Result<Self, FactsError> {
        let text = yaml::without_mark(text);
        if let Some(line) = yaml::too_deep(text.as_bytes()) {
            return Err(FactsError::TooDeep {
                line,
                limit: yaml::MAX_BRACKETS,
            });
        }
        let text = old_records::facts(text);
        yaml::refuse_duplicates(&text).map_err(FactsError::Read)?;
        let header: Header = serde_yaml::from_str(&text).map_err(FactsError::Read)?;
        if header.version != Self::VERSION {
            return Err(FactsError::Version {
                found: header.version,
            });
        }
        let facts: Self = serde_yaml::from_str(&text).map_err(FactsError::Read)?;
        match plausible::first_wrong(&facts) {
            None => Ok(facts),
            Some((path, problem)) => Err(FactsError::Wrong {
                line: yaml::line_of(&text, &path),
                key: yaml::path_text(&path),
                problem,
            }),
        }
    }

    /// Writes facts as YAML, the same text for the same facts.
    ///
    /// # Errors
    /// Never for facts that were gathered; the serializer's error otherwise.
    pub fn to_yaml(&self) -> Result<String, FactsError> {
        serde_yaml::to_string(self).map_err(FactsError::Write)
    }

    /// The facts of a file, for these preconditions. If the file does not list a program that `nodelet facts` does not look for, it is
    /// unknown whether the host has the program.
    #[must_use]
    pub fn with_unknown_programs<'r>(
        mut self,
        requirements: impl IntoIterator<Item = &'r Requirement>,
    ) -> Self {
        let usual = FactQuery::usual().programs;
        let listed = self.programs.clone().unwrap_or_default();
        for requirement in requirements {
            let Requirement::Programs(names) = requirement else {
                continue;
            };
            for name in names {
                if !usual.contains(name) && !listed.contains(name) {
                    let why = "the file of facts does not say; if the host has the program, add it to the list `programs` of the file";
                    self.unknown.insert(name.clone(), why.to_owned());
                }
            }
        }
        self
    }

    /// The facts without the content of files, so that they can be sent to others: a daemon.json can hold a proxy's password.
    #[must_use]
    pub fn without_files(mut self) -> Self {
        self.files.clear();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn facts_survive_the_round_trip() {
        let facts = Facts::nothing_about("cp-1");
        let yaml = facts.to_yaml().unwrap();
        assert_eq!(Facts::from_yaml(&yaml).unwrap(), facts);
    }

    #[test]
    fn a_program_that_the_file_cannot_know_is_unknown() {
        let judge = |listed: &[&str], name: &str| {
            let mut facts = Facts::nothing_about("cp-1");
            facts.programs = Some(listed.iter().map(|&name| name.to_owned()).collect());
            let requirement = Requirement::Programs(vec![name.to_owned()]);
            let facts = facts.with_unknown_programs([&requirement]);
            requirement.check(&facts).to_string()
        };
        assert_eq!(judge(&["chronyd"], "chronyd"), "met");
        assert!(judge(&[], "chronyd").starts_with("unknown: programs: chronyd"));
        assert!(judge(&[], "ip").contains("missing: ip"));
    }

    #[test]
    fn brackets_without_end_are_refused_before_the_parser() {
        let deep = format!("version: 1\nhostname: {}", "[".repeat(200_000));
        let error = Facts::from_yaml(&deep).unwrap_err().to_string();
        assert!(
            error.contains("line 2: brackets nested more than 32"),
            "{error}"
        );
        let marked = format!("\u{feff}{}", Facts::nothing_about("a").to_yaml().unwrap());
        assert_eq!(Facts::from_yaml(&marked).unwrap().hostname, "a");
    }

    #[test]
    fn values_that_no_host_has_are_refused_with_their_line() {
        let base = "version: 1\nhostname: a\n";
        for (text, expected) in [
            (
                "version: 1\nhostname: ''\n".to_owned(),
                "line 2: `hostname` is empty",
            ),
            (
                "version: 1\nhostname: \"a\\nb\"\n".to_owned(),
                "line 2: `hostname` has a blank or a control character: \"a\\nb\"",
            ),
            (
                format!("{base}clock: yesterday\n"),
                "line 3: `clock` is not a time such as 2026-01-31T12:00:00Z: \"yesterday\"",
            ),
            (
                format!("{base}cpus: 2\ncpu_list: 0,2-3\n"),
                "line 4: `cpu_list` has 3 processors, unlike `cpus`",
            ),
            (
                format!("{base}links: []\ndefault_route:\n  link: nolink\n"),
                "line 5: `default_route.link` is not among `links`: \"nolink\"",
            ),
            (
                format!("{base}disks:\n- path: /\n  free: 2\n  total: 1\n"),
                "line 5: `disks[0].free` is 2, more than `total` (1)",
            ),
            (
                format!(
                    "{base}disks:\n- {{path: /, free: 1, total: 1}}\n- path: /var\n  free: 1\n  total: 1\n  mode: '9999'\n"
                ),
                "line 8: `disks[1].mode` is not a mode in octal such as '0755': \"9999\"",
            ),
        ] {
            let error = Facts::from_yaml(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let good = format!(
            "{base}clock: 2026-01-01T00:00:00Z\ncpus: 3\ncpu_list: 0,2-3\ndefault_route: {{link: a}}\ndisks:\n- {{path: /, free: 1, total: 1, mode: '1777'}}\n"
        );
        assert!(Facts::from_yaml(&good).is_ok());
    }

    #[test]
    fn a_mistake_without_a_known_line_is_told_without_one() {
        let told = |line| {
            let key = "hostname".to_owned();
            let problem = "is empty".to_owned();
            FactsError::Wrong { line, key, problem }.to_string()
        };
        let rest = "`hostname` is empty (`nodelet facts > FILE` on a host writes a good file)";
        assert_eq!(told(None), format!("read facts: {rest}"));
        assert_eq!(told(Some(2)), format!("read facts: line 2: {rest}"));
    }

    #[test]
    fn an_obstacle_is_one_that_a_host_can_have() {
        let read = |taken_by: &str| {
            Facts::from_yaml(&format!(
                "version: 1\nhostname: a\ndisks:\n- path: /srv/a\n  free: 1\n  total: 1\n  taken_by: {taken_by}\n"
            ))
        };
        for good in ["a link", "a file (/srv)"] {
            let facts = read(good).unwrap();
            let told = facts.disks[0].taken_by.as_ref().map(ToString::to_string);
            assert_eq!(told.as_deref(), Some(good));
            assert!(
                facts
                    .to_yaml()
                    .unwrap()
                    .contains(&format!("taken_by: {good}\n"))
            );
        }
        let cause = read("a cat").unwrap_err().source().unwrap().to_string();
        assert!(
            cause.contains("\"a cat\" is not `a file`") && cause.contains("line 7"),
            "{cause}"
        );
    }

    #[test]
    fn a_repeated_key_is_refused_with_its_line() {
        let error = Facts::from_yaml("# a\nversion: 1\nhostname: a\ncpus: 1\nhostname: b\n");
        let cause = error.unwrap_err().source().unwrap().to_string();
        assert!(
            cause.contains("`hostname` is there twice") && cause.contains("line 5"),
            "{cause}"
        );
    }

    #[test]
    fn unknown_keys_and_versions_are_refused() {
        let misspelt = Facts::from_yaml("version: 1\nhostname: a\ncpu: 2\n").unwrap_err();
        let cause = misspelt.source().unwrap().to_string();
        assert!(
            cause.contains("unknown field `cpu`") && cause.contains("line 3"),
            "{cause}"
        );
        let newer = Facts::from_yaml("version: 2\nhostname: a\nnew: 2\n").unwrap_err();
        assert_eq!(
            newer.to_string(),
            "read facts: they are of version 2; this program reads version 1"
        );
        assert!(Facts::from_yaml("hostname: a\n").is_err());
    }
}
