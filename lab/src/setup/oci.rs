//! The edit that makes an OCI bundle run where CAP_SYS_RESOURCE is missing from the bounding set.
//!
//! Without that capability the kernel refuses three things container engines ask for as a matter of course: the capability itself
//! (every privileged container), a negative `oom_score_adj` (every sandbox and static pod of kubelet) and a raised rlimit. The
//! program `runc-wrapper` applies this edit and then becomes the real runc. Only the lab uses it.

use serde_json::Value;

const MISSING: &str = "CAP_SYS_RESOURCE";

/// What a runc command line asks us to edit before runc reads it.
#[derive(Debug, PartialEq, Eq)]
pub enum OciFile {
    /// `config.json` of the bundle directory (`create`, `run`).
    Bundle(String),
    /// The process file of `exec --process FILE`.
    Process(String),
    /// Nothing: the command starts no process of a container.
    None,
}

impl OciFile {
    /// Finds the document in runc's arguments (without the program name).
    pub fn of(arguments: &[String]) -> Self {
        let Some(command) = arguments
            .iter()
            .position(|word| matches!(word.as_str(), "create" | "run" | "exec"))
        else {
            return Self::None;
        };
        let rest = &arguments[command + 1..];
        match arguments[command].as_str() {
            "exec" => option(rest, &["--process", "-p"]).map_or(Self::None, Self::Process),
            _ => Self::Bundle(option(rest, &["--bundle", "-b"]).unwrap_or_else(|| ".".to_owned())),
        }
    }
}

/// The value of the first of `names` in `words`, written as `--name value` or `--name=value`.
fn option(words: &[String], names: &[&str]) -> Option<String> {
    words.iter().enumerate().find_map(|(at, word)| {
        names
            .iter()
            .find_map(|name| match word.strip_prefix(name)? {
                "" => words.get(at + 1).cloned(),
                rest => rest.strip_prefix('=').map(str::to_owned),
            })
    })
}

/// Edits the process part of a bundle, or a process file itself.
pub fn relax(process: &mut Value) {
    if let Some(sets) = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| name.as_str() != Some(MISSING));
        }
    }
    if process
        .get("oomScoreAdj")
        .and_then(Value::as_i64)
        .is_some_and(|score| score < 0)
    {
        process["oomScoreAdj"] = 0.into();
    }
    if let Some(fields) = process.as_object_mut() {
        fields.remove("rlimits");
    }
}

/// True if the `CapBnd` line of a `/proc/PID/status` text has CAP_SYS_RESOURCE (bit 24).
pub fn has_sys_resource(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_none_or(|set| set & (1 << 24) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn oci_file(line: &str) -> OciFile {
        OciFile::of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn finds_the_oci_file_of_each_command() {
        let bundle = |path: &str| OciFile::Bundle(path.to_owned());
        assert_eq!(
            oci_file("--root /run/r --log x create --bundle /b id"),
            bundle("/b")
        );
        assert_eq!(oci_file("run -b /b id"), bundle("/b"));
        assert_eq!(oci_file("create --bundle=/b id"), bundle("/b"));
        assert_eq!(oci_file("run id"), bundle("."));
        assert_eq!(
            oci_file("exec --process /p --detach id"),
            OciFile::Process("/p".to_owned())
        );
        assert_eq!(oci_file("exec id ls"), OciFile::None);
        assert_eq!(oci_file("--root /run/r delete --force id"), OciFile::None);
    }

    #[test]
    fn relaxes_exactly_three_things() {
        let mut process = json!({
            "args": ["sh"],
            "capabilities": {"bounding": ["CAP_CHOWN", MISSING], "effective": [MISSING]},
            "oomScoreAdj": -998,
            "rlimits": [{"type": "RLIMIT_NOFILE"}],
        });
        relax(&mut process);
        assert_eq!(
            process,
            json!({"args": ["sh"], "capabilities": {"bounding": ["CAP_CHOWN"], "effective": []}, "oomScoreAdj": 0})
        );
    }

    #[test]
    fn keeps_a_positive_score() {
        let mut process = json!({"oomScoreAdj": 1000});
        relax(&mut process);
        assert_eq!(process, json!({"oomScoreAdj": 1000}));
    }

    #[test]
    fn reads_the_bounding_set() {
        assert!(has_sys_resource("CapBnd:\t000001ffffffffff\n"));
        assert!(!has_sys_resource("CapEff:\t0\nCapBnd:\t000001fffeffffff\n"));
    }
}
