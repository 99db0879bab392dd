//! What a failure message says beyond the error: its causes, what was found nearby, and the next thing to try.

use crate::host::{Host, HostError};
use crate::plan::PlannedPhase;
use crate::resource::{ResourceError, Spec};

/// An error and its causes, outermost first; a cause that its effect already quotes is left out.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string();
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
        at = error.source();
    }
    texts
}

/// The next thing to try.
#[must_use]
pub fn advice(error: &ResourceError) -> String {
    let again = "then run `nodelet apply` again; phases that stand are left as they are";
    let all = chain(error).join(": ").to_lowercase();
    let what = if all.contains("no space left on device") {
        "make room on the file system that the message names (`df -h`)"
    } else if all.contains("permission denied") || all.contains("operation not permitted") {
        "run as root, and see whether the file system is mounted read-only"
    } else if all.contains("address already in use") {
        "find who holds the port (`ss -ltnp`) and stop it, or choose another"
    } else if all.contains("certificate")
        && (all.contains("expired") || all.contains("not valid yet"))
    {
        "compare the host's clock with the certificate's dates (`openssl x509 -noout -dates`)"
    } else if all.contains("certificate") || all.contains("unknownissuer") {
        "see whether certificate and root belong together (`openssl verify`); removing the certificate makes a new one"
    } else if all.contains("payload") {
        "put the missing file into the role's payload, or name one that is there"
    } else {
        match error {
            ResourceError::Host(HostError::Deadline { .. }) => {
                "see why it takes so long (load, disk, logs)"
            }
            ResourceError::Host(HostError::Spawn { .. }) => "install the missing program",
            ResourceError::Host(HostError::Service { .. }) => {
                "see the log of the service that refused"
            }
            ResourceError::NotConverged { .. } => "see the states and log lines above",
            _ => "mend the cause that the message names",
        }
    };
    format!("{what}, {again}")
}

/// States and last log lines of what a phase runs, where they are not as they should be.
pub(super) async fn look_around(phase: &PlannedPhase, host: &dyn Host) -> Vec<String> {
    let mut found = Vec::new();
    for step in &phase.steps {
        match &step.spec {
            Spec::Container(spec) => {
                if let Ok(Some(state)) = host.container(&spec.name).await {
                    let restarted = if state.restarts > 0 {
                        format!(", restarted {} times", state.restarts)
                    } else {
                        String::new()
                    };
                    let how = if state.running {
                        "runs".to_owned()
                    } else {
                        format!("exited with {}", state.exit_code)
                    };
                    found.push(format!("container {} {how}{restarted}", spec.name));
                    if let Ok(log) = host.container_log(&spec.name, 5).await {
                        found.extend(log.lines().map(|line| format!("  {}: {line}", spec.name)));
                    }
                }
            }
            Spec::Service(spec) => {
                if let Ok(unit) = host.unit(&spec.unit).await
                    && !unit.is_active()
                {
                    found.push(format!("{} is {} ({})", spec.unit, unit.active, unit.sub));
                    if let Ok(log) = host.unit_log(&spec.unit, 5).await {
                        found.extend(log.lines().map(|line| format!("  {}: {line}", spec.unit)));
                    }
                }
            }
            _ => {}
        }
    }
    found.truncate(30);
    found
}
