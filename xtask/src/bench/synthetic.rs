//! Roles of any size, for measuring how planning grows with them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Steps of each phase.
pub(super) const STEPS: usize = 10;

const TEMPLATE: &str =
    "# {{ name }}, {{ number }}\n{% if number > 3 %}\nlarge: true\n{% endif %}\n";

/// Writes a role of so many phases below `directory`; gives the role's own directory.
pub(super) fn write(directory: &Path, phases: usize) -> Result<PathBuf> {
    let role = directory.join(format!("synthetic-{phases}"));
    let templates = role.join("phases/templates");
    fs::create_dir_all(&templates)
        .with_context(|| format!("cannot create {}", templates.display()))?;
    let put = |path: &str, text: &str| {
        let path = role.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("role.yaml", &manifest(phases))?;
    put("phases/templates/part.tmpl", TEMPLATE)?;
    for number in 0..phases {
        put(&format!("phases/{}.rhai", name(number)), &script(number))?;
    }
    Ok(role)
}

fn name(number: usize) -> String {
    format!("phase-{number}")
}

fn manifest(phases: usize) -> String {
    let mut text = String::from(
        "version: 1\nname: synthetic\nrelease: 1.0.0\nabout: Is as large as it is told to be.\npayload: []\nnodes:\n  master:\n",
    );
    for number in 0..phases {
        let _ = writeln!(text, "    - {}", name(number));
    }
    text
}

/// A phase that needs the one before it, as the phases of a bring-up do, and one far back.
fn script(number: usize) -> String {
    let requires: Vec<String> = [number.checked_sub(1), (number > 2).then_some(number / 2)]
        .into_iter()
        .flatten()
        .map(|other| format!("\"{}\"", name(other)))
        .collect();
    let mut text = format!(
        "//! Part {number} of a large role.\n\nphase(\"{}\")\n    .about(\"Is one of many.\")\n    .nodes([\"master\"])\n    \
         .requires([{}]);\n\nlet base = \"/opt/synthetic/{number}\";\ndirectory(base);\n",
        name(number),
        requires.join(", ")
    );
    for index in 0..4 {
        let _ = write!(
            text,
            "\nfile(`${{base}}/file-{index}`)\n    .content(`${{host.name}} {index}\\n`)\n    .mode(\"0600\");\n\n\
             template(\"part.tmpl\", `${{base}}/part-{index}`)\n    .vars(#{{ name: host.name, number: {index} }});\n"
        );
    }
    text.push_str("\nsymlink(`${base}/first`, `${base}/file-0`);\n\ncheck(\"all is there\")\n    .as_planned();\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_ten_steps_and_needs_earlier_ones() {
        let text = script(9);
        let words = ["directory(", "\nfile(", "template(", "symlink("];
        let steps: usize = words.iter().map(|word| text.matches(word).count()).sum();
        assert_eq!(steps, STEPS, "{text}");
        assert!(
            text.contains(r#".requires(["phase-8", "phase-4"])"#),
            "{text}"
        );
        assert!(script(0).contains(".requires([])"));
    }
}
