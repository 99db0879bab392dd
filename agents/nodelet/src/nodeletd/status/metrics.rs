//! Metrics in Prometheus' text format 0.0.4.

use std::fmt::Write as _;

use daemon::usage;
use engine::exec::Status;

use super::kube_status::NodeState;
use super::view::View;

/// Calls `$one` with name, kind, help and value of each `kind name = value, help;`.
macro_rules! metrics {
    ($one:ident $($kind:ident $name:ident = $value:expr, $help:literal;)*) => {
        $($one(stringify!($name), stringify!($kind), $help, $value);)*
    };
}

/// All metrics. They are few and flat, so the text is written by hand: name, help, type, value.
pub(in crate::nodeletd) fn text(view: Option<&View>) -> String {
    let mut text = String::new();
    let usage = usage::now();
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    };
    metrics! { one
        counter nodeletd_cpu_seconds_total = usage.cpu.as_secs_f64(), "CPU time of nodeletd.";
        counter nodeletd_children_cpu_seconds_total = usage.children_cpu.as_secs_f64(),
            "CPU time of its passes and changes.";
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a metric is a float, and these are small"
    )]
    {
        metrics! { one
            gauge nodeletd_resident_bytes = usage.resident as f64, "Resident memory of nodeletd.";
            gauge nodeletd_children_peak_resident_bytes = usage.children_peak as f64,
                "Largest resident memory of one of its passes and changes.";
            gauge nodeletd_open_fds = usage.descriptors as f64,
                "Open file descriptors of nodeletd.";
        }
        if let Some(view) = view {
            let counters = &view.counters;
            metrics! { one
                counter nodelet_passes_total = counters.passes as f64, "Status passes.";
                counter nodelet_failed_passes_total = counters.failed_passes as f64,
                    "Status passes that failed.";
                counter nodelet_repairs_total = counters.repairs as f64, "Partial restarts.";
                counter nodelet_failed_attempts_total = counters.failed_attempts as f64,
                    "Attempts that failed.";
                counter nodelet_full_cleans_total = counters.full_cleans as f64,
                    "Attempts that began with a full clean.";
                gauge nodelet_last_pass_timestamp_seconds = view.last_pass.unwrap_or(0) as f64,
                    "End of the last status pass.";
            }
        }
    }
    let Some(view) = view else {
        return text;
    };
    metrics! { one
        gauge nodelet_attempts = f64::from(view.attempts),
            "Attempts since the node was last healthy.";
        gauge nodelet_node_ok = f64::from(u8::from(view.node_state == NodeState::Ok)),
            "1 if the node is as desired.";
    }
    text.push_str("# HELP nodelet_phase_healthy 1 if all conditions of a phase hold, 0 if one does not, -1 if that is not known.\n# TYPE nodelet_phase_healthy gauge\n");
    for phase in view.phases.iter().filter(|phase| phase.skipped.is_none()) {
        let value = match phase.status() {
            Status::True => 1,
            Status::False => 0,
            Status::Unknown => -1,
        };
        let _ = writeln!(
            text,
            "nodelet_phase_healthy{{phase=\"{}\"}} {value}",
            phase.phase
        );
    }
    text.push_str("# HELP nodelet_condition 1 if a condition of nodeletd itself holds.\n# TYPE nodelet_condition gauge\n");
    for condition in &view.conditions {
        let value = u8::from(condition.status == Status::True);
        let _ = writeln!(
            text,
            "nodelet_condition{{name=\"{}\"}} {value}",
            condition.name
        );
    }
    text
}
