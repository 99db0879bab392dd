//! What pf9-comms of a host says about its listeners.

use std::collections::BTreeMap;

use lab::Host;
use lab::package::COMMS;
use serde_json::Value;

use super::sh;

/// The status of a listener.
#[must_use]
pub fn listener(host: &Host, name: &str) -> Value {
    let status = sh(host, &format!("{COMMS} status --json"));
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let listeners = status["listeners"].as_array().expect("listeners");
    let its = listeners.iter().find(|its| its["name"] == name);
    its.expect("it is there").clone()
}

/// How many errors of each cause a listener had. Each cause has a next step.
#[must_use]
pub fn errors(host: &Host, name: &str) -> BTreeMap<String, u64> {
    let listener = listener(host, name);
    let errors = listener["errors"].as_array().expect("errors").iter();
    errors
        .map(|its| {
            let next = its["next"].as_str();
            assert!(next.is_some_and(|next| !next.is_empty()), "{its}");
            let cause = its["cause"].as_str().expect("a cause");
            (cause.to_owned(), its["count"].as_u64().expect("a count"))
        })
        .collect()
}
