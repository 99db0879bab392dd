//! Figures: what each repetition measured, medians, ratios, and whether a target is met. Pure.

use std::fmt::Write as _;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Megabytes,
    /// An exponent, a share: a bare number.
    Number,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value:.1} s"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Number => format!("{value:.2}"),
        }
    }

    /// A value in a list whose unit stands beside it.
    fn bare(self, value: f64) -> String {
        let shown = self.show(value);
        shown.split(' ').next().unwrap_or_default().to_owned()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
            Self::Number => "",
        }
    }
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Our median divided by the median of the peer's fast cluster, at most.
    Ratio { at_most: f64, goal: Option<f64> },
    /// Our largest value, at most, in the figure's unit: a limit holds for each repetition.
    AtMost(f64),
    /// The figure has no target; its row says so.
    None,
}

/// One thing that was measured, of ours and perhaps of the peer's.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) ours: Vec<f64>,
    pub(super) theirs: Vec<f64>,
    pub(super) target: Target,
}

/// Two neighbouring values of the peer, in order of size, belong to different clusters if they are further apart than this, in tenths of a
/// second. Values are compared as the page prints them, so that a reader can recompute the clusters.
///
/// Shorter than each wait that makes the clusters (4 seconds between two status reports), so that no slow value counts as a fast one. Where it
/// splits what is one cluster, it serves the peer.
pub(super) const GAP: f64 = 10.0;

/// The smallest values, up to the first gap of more than [`GAP`]; all values where there is no such gap.
///
/// The first gap and not the widest: a single fast value is a cluster of its own, which is the choice that serves the peer best.
pub(super) fn fast_cluster(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let printed = |value: f64| (value * 10.0).round();
    let gap = sorted
        .windows(2)
        .position(|pair| printed(pair[1]) - printed(pair[0]) > GAP);
    sorted.truncate(gap.map_or(sorted.len(), |last| last + 1));
    sorted
}

impl Figure {
    /// Our median divided by the peer's, where there is a peer.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(median(&self.ours)? / median(&self.theirs)?)
    }

    /// Our median divided by the median of the peer's fast cluster.
    pub(super) fn ratio_to_fast(&self) -> Option<f64> {
        Some(median(&self.ours)? / median(&self.fast())?)
    }

    /// The peer's fast cluster. Only times in seconds have clusters: the causes are waits of seconds.
    fn fast(&self) -> Vec<f64> {
        match self.unit {
            Unit::Seconds => fast_cluster(&self.theirs),
            Unit::Milliseconds | Unit::Megabytes | Unit::Number => self.theirs.clone(),
        }
    }

    /// Whether the target is met; `None` where there is none, or nothing was measured.
    pub(super) fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio { at_most, .. } => self.ratio_to_fast().map(|ratio| ratio <= at_most),
            Target::AtMost(most) => largest(&self.ours).map(|ours| ours <= most),
            Target::None => None,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::Ratio {
                at_most,
                goal: Some(goal),
            } => format!("≤ {at_most:.2} × fast cluster, goal {goal:.2}"),
            Target::Ratio {
                at_most,
                goal: None,
            } => format!("≤ {at_most:.2} × fast cluster"),
            Target::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Target::None => "no target".to_owned(),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.met(), self.target) {
            (None, _) => "—",
            (Some(false), _) => "**missed**",
            (
                Some(true),
                Target::Ratio {
                    goal: Some(goal), ..
                },
            ) => {
                if self.ratio_to_fast().is_some_and(|ratio| ratio <= goal) {
                    "met, goal met"
                } else {
                    "met, goal missed"
                }
            }
            (Some(true), _) => "met",
        }
    }

    /// Whether it was measured once: then it says nothing about the spread.
    fn is_single(&self) -> bool {
        self.ours.len() == 1 && self.theirs.len() < 2
    }

    /// Median, minimum and maximum of some values.
    fn range(&self, values: &[f64]) -> String {
        let Some(middle) = median(values) else {
            return "—".to_owned();
        };
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if values.len() == 1 {
            return self.unit.show(middle);
        }
        format!(
            "{} ({}–{})",
            self.unit.show(middle),
            self.unit.bare(least),
            self.unit.bare(most)
        )
    }

    /// The fast cluster's median, and how many of the peer's values are in it.
    fn fast_text(&self) -> String {
        let fast = self.fast();
        median(&fast).map_or("—".to_owned(), |middle| {
            format!(
                "{} ({} of {})",
                self.unit.show(middle),
                fast.len(),
                self.theirs.len()
            )
        })
    }
}

/// The middle value; of an even number of values the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(middle).copied(),
        _ => Some(f64::midpoint(
            *sorted.get(middle - 1)?,
            *sorted.get(middle)?,
        )),
    }
}

/// The largest value.
fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

/// The exponent k of t ~ n^k between two sizes: 1 is linear, below it a fixed cost is shared, above it work grows faster than its
/// object.
pub(super) fn growth(small: (f64, f64), large: (f64, f64)) -> f64 {
    (large.1 / small.1).ln() / (large.0 / small.0).ln()
}

/// Medians with minimum and maximum, ratios and targets as a Markdown table. What was measured once has a table of its own.
pub(super) fn medians(figures: &[Figure], (ours, peer): (&str, &str)) -> String {
    let (once, repeated): (Vec<&Figure>, Vec<&Figure>) =
        figures.iter().partition(|figure| figure.is_single());
    let mut text = with_spread(&repeated, (ours, peer));
    if !once.is_empty() {
        let _ = write!(
            text,
            "\nSeen once, and no benchmark: these rows have no repetitions.\n\n| figure | {ours} | target | |\n|---|---:|---|---|\n",
        );
    }
    for figure in once {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            figure.name,
            figure.range(&figure.ours),
            figure.target_text(),
            figure.verdict(),
        );
    }
    text
}

fn with_spread(figures: &[&Figure], (ours, peer): (&str, &str)) -> String {
    let mut text = format!(
        "| figure: median (minimum–maximum) | {ours} | {peer} | {peer}'s fast cluster | ratio to the median | ratio to the fast cluster | target | |\n\
         |---|---:|---:|---:|---:|---:|---|---|\n",
    );
    for figure in figures {
        let ratio =
            |ratio: Option<f64>| ratio.map_or("—".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            figure.name,
            figure.range(&figure.ours),
            figure.range(&figure.theirs),
            figure.fast_text(),
            ratio(figure.ratio()),
            ratio(figure.ratio_to_fast()),
            figure.target_text(),
            figure.verdict(),
        );
    }
    text
}

/// Each repetition's values as a Markdown table, for what was measured more than once.
pub(super) fn repetitions(figures: &[Figure], (ours, peer): (&str, &str)) -> String {
    let mut text = format!(
        "| figure: all values, in the order of the repetitions | unit | {ours} | {peer} |\n|---|---|---|---|\n",
    );
    for figure in figures.iter().filter(|figure| !figure.is_single()) {
        let list = |values: &[f64]| {
            let shown: Vec<String> = values
                .iter()
                .map(|value| figure.unit.bare(*value))
                .collect();
            if shown.is_empty() {
                "—".to_owned()
            } else {
                shown.join(", ")
            }
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            figure.name,
            figure.unit.name(),
            list(&figure.ours),
            list(&figure.theirs),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(ours: &[f64], theirs: &[f64], target: Target) -> Figure {
        Figure {
            name: "bare host to Ready".to_owned(),
            unit: Unit::Seconds,
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            target,
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn growth_is_an_exponent() {
        assert!((growth((250.0, 1.0), (1000.0, 4.0)) - 1.0).abs() < 1e-9);
        assert!((growth((250.0, 1.0), (1000.0, 16.0)) - 2.0).abs() < 1e-9);
        assert!(growth((250.0, 1.0), (1000.0, 1.0)).abs() < 1e-9);
    }

    #[test]
    fn the_fast_cluster_ends_at_the_first_gap() {
        // Values of kubeadm: the node is Ready with the first report, or with a later one.
        let values = [25.7, 13.6, 13.3, 27.5];
        assert_eq!(fast_cluster(&values), [13.3, 13.6]);
        assert_eq!(fast_cluster(&[14.0, 9.0, 20.0]), [9.0]);
        assert_eq!(fast_cluster(&[12.0, 10.0, 11.0]), [10.0, 11.0, 12.0]);
        assert_eq!(fast_cluster(&[]), Vec::<f64>::new());
        // Printed as 33.1 and 34.1, which are not more than a second apart.
        assert_eq!(fast_cluster(&[34.14, 33.06]), [33.06, 34.14]);
        // Two that came with the first status report, four seconds before the others would have.
        let reports = [9.4, 5.7, 6.4, 9.6, 9.0, 9.3, 10.4];
        assert_eq!(fast_cluster(&reports), [5.7, 6.4]);
        let figure = figure(&[10.5], &values, Target::None);
        assert_eq!(
            figure.ratio().map(|it| format!("{it:.2}")).as_deref(),
            Some("0.53")
        );
        assert_eq!(
            figure
                .ratio_to_fast()
                .map(|it| format!("{it:.2}"))
                .as_deref(),
            Some("0.78")
        );
    }

    #[test]
    fn a_target_is_met_or_not() {
        let target = Target::Ratio {
            at_most: 0.65,
            goal: Some(0.5),
        };
        let verdict = |ours: f64, theirs: &[f64]| figure(&[ours], theirs, target).verdict();
        assert_eq!(verdict(5.0, &[10.0]), "met, goal met");
        assert_eq!(verdict(6.0, &[10.0]), "met, goal missed");
        assert_eq!(verdict(7.0, &[10.0]), "**missed**");
        // The median alone would meet it.
        assert_eq!(verdict(7.0, &[10.0, 25.0, 25.0]), "**missed**");
        assert_eq!(figure(&[11.0], &[], target).met(), None);
        assert_eq!(figure(&[2.1], &[], Target::AtMost(2.0)).met(), Some(false));
        // The median alone would meet it.
        let limit = Target::AtMost(5.0);
        let slow_once = figure(&[2.5, 6.0, 2.5], &[], limit);
        assert_eq!(slow_once.verdict(), "**missed**");
        assert_eq!(figure(&[5.0, 2.5], &[], limit).met(), Some(true));
        assert_eq!(figure(&[], &[], limit).met(), None);
        assert_eq!(figure(&[2.1], &[], Target::None).met(), None);
    }

    #[test]
    fn tables() {
        let figures = [
            figure(
                &[6.0, 7.04],
                &[10.0, 20.0],
                Target::Ratio {
                    at_most: 0.65,
                    goal: None,
                },
            ),
            figure(&[1.0], &[], Target::AtMost(2.0)),
            figure(&[1.0], &[], Target::None),
        ];
        assert_eq!(
            medians(&figures, ("nodelet", "kubeadm"))
                .lines()
                .skip(2)
                .collect::<Vec<_>>(),
            [
                "| bare host to Ready | 6.5 s (6.0–7.0) | 15.0 s (10.0–20.0) | 10.0 s (1 of 2) | 0.43 | 0.65 | ≤ 0.65 × fast cluster | **missed** |",
                "",
                "Seen once, and no benchmark: these rows have no repetitions.",
                "",
                "| figure | nodelet | target | |",
                "|---|---:|---|---|",
                "| bare host to Ready | 1.0 s | ≤ 2.0 s | met |",
                "| bare host to Ready | 1.0 s | no target | — |",
            ]
        );
        assert_eq!(
            repetitions(&figures, ("nodelet", "kubeadm"))
                .lines()
                .skip(2)
                .collect::<Vec<_>>(),
            ["| bare host to Ready | s | 6.0, 7.0 | 10.0, 20.0 |"]
        );
    }
}
