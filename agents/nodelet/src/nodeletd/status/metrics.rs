//! Metrics in Prometheus' text format 0.0.4.

use std::fmt::Write as _;

use daemon::usage;
use engine::exec::Status;

use super::kube_status::NodeState;
use super::view::View;

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
    one(
        "nodeletd_cpu_seconds_total",
        "counter",
        "CPU time of nodeletd.",
        usage.cpu.as_secs_f64(),
    );
    one(
        "nodeletd_children_cpu_seconds_total",
        "counter",
        "CPU time of its passes and changes.",
        usage.children_cpu.as_secs_f64(),
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "a metric is a float, and these are small"
    )]
    {
        one(
            "nodeletd_resident_bytes",
            "gauge",
            "Resident memory of nodeletd.",
            usage.resident as f64,
        );
        one(
            "nodeletd_children_peak_resident_bytes",
            "gauge",
            "Largest resident memory of one of its passes and changes.",
            usage.children_peak as f64,
        );
        one(
            "nodeletd_open_fds",
            "gauge",
            "Open file descriptors of nodeletd.",
            usage.descriptors as f64,
        );
        if let Some(view) = view {
            let counters = &view.counters;
            one(
                "nodelet_passes_total",
                "counter",
                "Status passes.",
                counters.passes as f64,
            );
            one(
                "nodelet_failed_passes_total",
                "counter",
                "Status passes that failed.",
                counters.failed_passes as f64,
            );
            one(
                "nodelet_repairs_total",
                "counter",
                "Partial restarts.",
                counters.repairs as f64,
            );
            one(
                "nodelet_failed_attempts_total",
                "counter",
                "Attempts that failed.",
                counters.failed_attempts as f64,
            );
            one(
                "nodelet_full_cleans_total",
                "counter",
                "Attempts that began with a full clean.",
                counters.full_cleans as f64,
            );
            one(
                "nodelet_last_pass_timestamp_seconds",
                "gauge",
                "End of the last status pass.",
                view.last_pass.unwrap_or(0) as f64,
            );
        }
    }
    let Some(view) = view else {
        return text;
    };
    one(
        "nodelet_attempts",
        "gauge",
        "Attempts since the node was last healthy.",
        f64::from(view.attempts),
    );
    one(
        "nodelet_node_ok",
        "gauge",
        "1 if the node is as desired.",
        f64::from(u8::from(view.node_state == NodeState::Ok)),
    );
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
