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
    /// Ours divided by the peer's, at most.
    Ratio { at_most: f64, aim: Option<f64> },
    /// Our median, at most, in the figure's unit.
    AtMost(f64),
    /// Only told.
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

impl Figure {
    /// The medians' ratio, where there is a peer.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(median(&self.ours)? / median(&self.theirs)?)
    }

    /// Whether the target is met; `None` where there is none.
    pub(super) fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio { at_most, .. } => self.ratio().map(|ratio| ratio <= at_most),
            Target::AtMost(most) => median(&self.ours).map(|ours| ours <= most),
            Target::None => None,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::Ratio {
                at_most,
                aim: Some(aim),
            } => format!("ratio ≤ {at_most:.1}, aim {aim:.1}"),
            Target::Ratio { at_most, aim: None } => format!("ratio ≤ {at_most:.1}"),
            Target::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Target::None => "—".to_owned(),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.met(), self.target) {
            (None, _) => "—",
            (Some(false), _) => "**missed**",
            (Some(true), Target::Ratio { aim: Some(aim), .. })
                if self.ratio().is_some_and(|ratio| ratio <= aim) =>
            {
                "met, and the aim"
            }
            (Some(true), _) => "met",
        }
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

/// The exponent k of t ~ n^k between two sizes: 1 is linear, below it a fixed cost is shared, above it work grows faster than its
/// object.
pub(super) fn growth(small: (f64, f64), large: (f64, f64)) -> f64 {
    (large.1 / small.1).ln() / (large.0 / small.0).ln()
}

/// Medians, ratios and targets as a Markdown table.
pub(super) fn medians(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure (median) | nodelet | kubeadm | ratio | target | |\n|---|---:|---:|---:|---|---|\n",
    );
    for figure in figures {
        let show = |values: &[f64]| {
            median(values).map_or("—".to_owned(), |value| figure.unit.show(value))
        };
        let ratio = figure
            .ratio()
            .map_or("—".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {ratio} | {} | {} |",
            figure.name,
            show(&figure.ours),
            show(&figure.theirs),
            figure.target_text(),
            figure.verdict(),
        );
    }
    text
}

/// Each repetition's values as a Markdown table.
pub(super) fn repetitions(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure (each repetition, in order) | unit | nodelet | kubeadm |\n|---|---|---|---|\n",
    );
    for figure in figures {
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
    fn a_target_is_met_or_not() {
        let target = Target::Ratio {
            at_most: 1.0,
            aim: Some(0.7),
        };
        let reached = figure(&[6.0, 7.0, 8.0], &[14.0, 10.0, 20.0], target);
        assert_eq!(reached.ratio(), Some(0.5));
        assert_eq!(
            (reached.met(), reached.verdict()),
            (Some(true), "met, and the aim")
        );
        assert_eq!(figure(&[9.0], &[10.0], target).verdict(), "met");
        assert_eq!(figure(&[11.0], &[10.0], target).verdict(), "**missed**");
        assert_eq!(figure(&[11.0], &[], target).met(), None);
        assert_eq!(figure(&[2.1], &[], Target::AtMost(2.0)).met(), Some(false));
        assert_eq!(figure(&[2.1], &[], Target::None).met(), None);
    }

    #[test]
    fn tables() {
        let figures = [
            figure(
                &[6.0, 7.04],
                &[10.0, 20.0],
                Target::Ratio {
                    at_most: 1.0,
                    aim: None,
                },
            ),
            figure(&[1.0], &[], Target::AtMost(2.0)),
        ];
        assert_eq!(
            medians(&figures).lines().skip(2).collect::<Vec<_>>(),
            [
                "| bare host to Ready | 6.5 s | 15.0 s | 0.43 | ratio ≤ 1.0 | met |",
                "| bare host to Ready | 1.0 s | — | — | ≤ 2.0 s | met |",
            ]
        );
        assert_eq!(
            repetitions(&figures).lines().nth(2),
            Some("| bare host to Ready | s | 6.0, 7.0 | 10.0, 20.0 |")
        );
    }
}
