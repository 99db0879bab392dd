//! The order of phases: `requires` (hard) and `after` (if present).
//!
//! In systemd `Requires=` does not order; here `requires` does, because a phase needs the phases that it requires to be up first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::model::PhaseName;
use crate::resource::Spec;

/// Which phases must come before which.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Phases in the order in which the role names them.
    names: Vec<PhaseName>,
    /// All that must come before a phase, `requires` and `after` together.
    before: BTreeMap<PhaseName, BTreeSet<PhaseName>>,
    /// What `requires` alone names.
    requires: BTreeMap<PhaseName, BTreeSet<PhaseName>>,
}

/// A graph that cannot be ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// `requires` names a phase that the role does not have.
    #[error("phase `{phase}` requires `{missing}`, which this role does not have")]
    Missing {
        /// The phase that requires it.
        phase: PhaseName,
        /// The name that is not there.
        missing: PhaseName,
    },
    /// Phases wait for each other.
    #[error("phases wait for each other: {}", .0.iter().map(PhaseName::as_str).collect::<Vec<_>>().join(" → "))]
    Cycle(Vec<PhaseName>),
}

impl Graph {
    /// Adds a phase. Phases that no edge orders keep the order in which they were added.
    pub fn add(&mut self, name: &PhaseName, requires: &[PhaseName], after: &[PhaseName]) {
        self.names.push(name.clone());
        self.requires
            .entry(name.clone())
            .or_default()
            .extend(requires.iter().cloned());
        self.before
            .entry(name.clone())
            .or_default()
            .extend(requires.iter().chain(after).cloned());
    }

    /// The graph of a plan's phases.
    #[must_use]
    pub fn of(plan: &super::Plan) -> Self {
        let mut graph = Self::default();
        for phase in &plan.phases {
            graph.add(&phase.name, &phase.requires, &phase.after);
        }
        graph.forget_absent();
        graph
    }

    /// The same for a run, with one more rule: if one phase has a directory and another phase has something in it, the phase that
    /// is first in the plan comes first. Then the phase that creates the directory is always the one that a dry run has named.
    #[must_use]
    pub fn of_run(plan: &super::Plan) -> Self {
        let mut graph = Self::of(plan);
        // For each directory: the last phase that has it, and the phases that have had something in it since then.
        let mut owner: BTreeMap<PathBuf, &PhaseName> = BTreeMap::new();
        let mut within: BTreeMap<PathBuf, BTreeSet<&PhaseName>> = BTreeMap::new();
        for phase in plan.phases.iter().filter(|phase| phase.skipped.is_none()) {
            let mut earlier: BTreeSet<&PhaseName> = BTreeSet::new();
            for step in &phase.steps {
                let directory = match &step.spec {
                    Spec::Directory(directory) => Some(&directory.path),
                    _ => None,
                };
                for path in step.spec.paths().iter().chain(directory) {
                    let around = path.ancestors().skip(usize::from(directory.is_none()));
                    earlier.extend(around.clone().filter_map(|at| owner.get(at)));
                    for at in around {
                        within.entry(at.to_owned()).or_default().insert(&phase.name);
                    }
                }
                if let Some(path) = directory {
                    earlier.extend(within.remove(path).unwrap_or_default());
                    owner.insert(path.clone(), &phase.name);
                }
            }
            earlier.remove(&phase.name);
            let before = graph.before.entry(phase.name.clone()).or_default();
            before.extend(earlier.into_iter().cloned());
        }
        graph
    }

    /// Drops `after` edges to phases that the graph does not have.
    fn forget_absent(&mut self) {
        let known: BTreeSet<_> = self.names.iter().cloned().collect();
        for before in self.before.values_mut() {
            before.retain(|name| known.contains(name));
        }
    }

    /// Phases in an order that keeps every edge, otherwise as they were added.
    ///
    /// # Errors
    /// Every missing name, or one cycle.
    pub fn ordered(&self) -> Result<Vec<PhaseName>, Vec<OrderError>> {
        let known: BTreeSet<_> = self.names.iter().collect();
        let mut missing = Vec::new();
        for name in &self.names {
            for required in &self.requires[name] {
                if !known.contains(required) {
                    missing.push(OrderError::Missing {
                        phase: name.clone(),
                        missing: required.clone(),
                    });
                }
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        let place: BTreeMap<&PhaseName, usize> = self
            .names
            .iter()
            .enumerate()
            .map(|(place, name)| (name, place))
            .collect();
        let mut missing_before: Vec<usize> = Vec::with_capacity(self.names.len());
        let mut behind: Vec<Vec<usize>> = vec![Vec::new(); self.names.len()];
        for (at, name) in self.names.iter().enumerate() {
            let before = self.before[name]
                .iter()
                .filter_map(|before| place.get(before));
            missing_before.push(before.clone().count());
            before.for_each(|before| behind[*before].push(at));
        }
        // Of the phases that may come next, take the one that the role names first.
        let mut ready: BTreeSet<usize> = (0..self.names.len())
            .filter(|at| missing_before[*at] == 0)
            .collect();
        let mut order = Vec::with_capacity(self.names.len());
        while let Some(at) = ready.pop_first() {
            order.push(self.names[at].clone());
            for next in &behind[at] {
                missing_before[*next] -= 1;
                if missing_before[*next] == 0 {
                    ready.insert(*next);
                }
            }
        }
        if order.len() < self.names.len() {
            let done: BTreeSet<&PhaseName> = order.iter().collect();
            return Err(vec![OrderError::Cycle(self.cycle(&done))]);
        }
        Ok(order)
    }

    /// Walks backwards through the phases that could not be ordered, until one of them comes again.
    fn cycle(&self, done: &BTreeSet<&PhaseName>) -> Vec<PhaseName> {
        let mut path: Vec<PhaseName> = Vec::new();
        let mut at = self.names.iter().find(|name| !done.contains(name)).cloned();
        while let Some(name) = at {
            if let Some(start) = path.iter().position(|seen| *seen == name) {
                path.drain(..start);
                path.reverse();
                path.push(path[0].clone());
                return path;
            }
            at = self.before[&name]
                .iter()
                .find(|before| !done.contains(before) && self.names.contains(before))
                .cloned();
            path.push(name);
        }
        path
    }

    /// Phases that must be over before `name` may start, directly or through others.
    #[must_use]
    pub fn before(&self, name: &PhaseName) -> BTreeSet<PhaseName> {
        self.closure(name, |at| {
            self.before.get(at).into_iter().flatten().cloned().collect()
        })
    }

    /// The phases of `selected` that `name` waits for, without another phase of `selected` in between.
    ///
    /// When these are over, all phases that must come before `name` are over, because each of them has waited in turn.
    /// Unlike [`Graph::before`], this visits each edge at most once.
    #[must_use]
    pub fn nearest_before<'a>(
        &'a self,
        name: &PhaseName,
        selected: &BTreeSet<&PhaseName>,
    ) -> BTreeSet<&'a PhaseName> {
        let direct = |name: &PhaseName| self.before.get(name).into_iter().flatten();
        let mut nearest = BTreeSet::new();
        let mut passed = BTreeSet::new();
        let mut open: Vec<&PhaseName> = direct(name).collect();
        while let Some(at) = open.pop() {
            if selected.contains(at) {
                nearest.insert(at);
            } else if passed.insert(at) {
                open.extend(direct(at));
            }
        }
        nearest
    }

    /// The phases that need `name`, directly or through others, by `requires` alone.
    #[must_use]
    pub fn dependents(&self, name: &PhaseName) -> BTreeSet<PhaseName> {
        self.closure(name, |at| {
            self.names
                .iter()
                .filter(|other| self.requires[*other].contains(at))
                .cloned()
                .collect()
        })
    }

    /// The phases that `name` needs, directly or through others, by `requires` alone.
    #[must_use]
    pub fn requirements(&self, name: &PhaseName) -> BTreeSet<PhaseName> {
        self.closure(name, |at| {
            self.requires
                .get(at)
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        })
    }

    fn closure(
        &self,
        name: &PhaseName,
        next: impl Fn(&PhaseName) -> Vec<PhaseName>,
    ) -> BTreeSet<PhaseName> {
        let mut found = BTreeSet::new();
        let mut open = next(name);
        while let Some(at) = open.pop() {
            if found.insert(at.clone()) {
                open.extend(next(&at));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PhaseName {
        text.parse().expect("a phase name")
    }

    fn graph(phases: &[(&str, &[&str], &[&str])]) -> Graph {
        let names = |list: &[&str]| list.iter().map(|n| name(n)).collect::<Vec<_>>();
        let mut graph = Graph::default();
        for (phase, requires, after) in phases {
            graph.add(&name(phase), &names(requires), &names(after));
        }
        graph
    }

    fn order(graph: &Graph) -> String {
        let names = graph.ordered().expect("it can be ordered");
        names
            .iter()
            .map(PhaseName::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn requires_orders_and_the_role_decides_the_rest() {
        let graph = graph(&[
            ("etcd", &["docker"], &[]),
            ("certs", &[], &[]),
            ("docker", &[], &["absent"]),
        ]);
        assert_eq!(order(&graph), "certs docker etcd");
    }

    #[test]
    fn a_missing_requirement_is_named() {
        let errors = graph(&[("etcd", &["docker"], &[])])
            .ordered()
            .expect_err("docker is missing");
        assert_eq!(
            errors[0].to_string(),
            "phase `etcd` requires `docker`, which this role does not have"
        );
    }

    #[test]
    fn a_cycle_is_named() {
        let errors = graph(&[("a", &["c"], &[]), ("b", &["a"], &[]), ("c", &[], &["b"])])
            .ordered()
            .expect_err("they wait for each other");
        assert_eq!(
            errors[0].to_string(),
            "phases wait for each other: b → c → a → b"
        );
    }

    #[test]
    fn the_nearest_are_found_through_what_is_not_selected() {
        let graph = graph(&[
            ("docker", &[], &[]),
            ("etcd", &["docker"], &[]),
            ("api", &["etcd", "docker"], &[]),
            ("proxy", &["api"], &["etcd"]),
        ]);
        let (docker, etcd, api) = (name("docker"), name("etcd"), name("api"));
        let nearest = |of: &str, selected: &[&PhaseName]| {
            let selected = selected.iter().copied().collect();
            let found = graph.nearest_before(&name(of), &selected);
            found
                .into_iter()
                .map(|phase| phase.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(nearest("proxy", &[&docker, &etcd, &api]), ["api", "etcd"]);
        assert_eq!(nearest("proxy", &[&docker]), ["docker"]);
        assert_eq!(nearest("docker", &[&docker]), [""; 0]);
    }

    #[test]
    fn dependents_go_by_requires_alone() {
        let graph = graph(&[
            ("docker", &[], &[]),
            ("etcd", &["docker"], &[]),
            ("api", &["etcd"], &[]),
            ("backup", &[], &["etcd"]),
        ]);
        let names = graph.dependents(&name("docker"));
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            [name("api"), name("etcd")]
        );
    }
}
