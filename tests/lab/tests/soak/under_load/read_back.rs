//! Reads back what was acknowledged, from one master.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use lab_suites::{Credentials, HttpsClient, poll};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::writers::{config_maps_at, content, key, number_of, value};

/// How many writes are read at a time.
const PAGE: usize = 500;
/// Time limit of one request.
const REQUEST: Duration = Duration::from_secs(10);
/// Time limit of one page, with more than one request if need be.
const LIMIT: Duration = Duration::from_secs(60);

/// Reads with one client certificate.
pub(crate) struct Reader {
    runtime: Runtime,
    client: HttpsClient,
}

impl Reader {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        Self {
            runtime: runtime.expect("a runtime"),
            client: HttpsClient::new(credentials, 1),
        }
    }

    /// The numbers of the ConfigMaps that the API server at this address does not have with their content.
    pub(crate) fn lost_config_maps(&self, api: Ipv4Addr, acknowledged: usize) -> Vec<usize> {
        let url = config_maps_at(&api.to_string());
        let mut is_there = vec![false; acknowledged];
        let mut token = String::new();
        loop {
            let page = self.read(&format!("{url}?limit={PAGE}{token}"), None);
            for item in page["items"].as_array().expect("a list") {
                let number = item["metadata"]["name"].as_str().and_then(number_of);
                // The last write of all may not have been acknowledged.
                if let Some(number) = number.filter(|number| *number < acknowledged) {
                    is_there[number] = item["data"]["content"] == content(number);
                }
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => token = format!("&continue={next}"),
                _ => break,
            }
        }
        let numbers = is_there.iter().enumerate();
        let lost = numbers.filter(|(_, is_there)| !**is_there);
        lost.map(|(number, _)| number).collect()
    }

    /// The numbers of the keys that the member of etcd at this address does not have with their value, once it has all that the others
    /// have.
    pub(crate) fn lost_keys(&self, member: Ipv4Addr, acknowledged: usize) -> Vec<usize> {
        let url = format!("https://{member}:4001/v3/kv/range");
        let mut lost = Vec::new();
        for begin in (0..acknowledged).step_by(PAGE) {
            let end = (begin + PAGE).min(acknowledged);
            let range = json!({ "key": key(begin), "range_end": key(end) });
            let page = self.read(&url, Some(&range));
            let pairs = page["kvs"].as_array().into_iter().flatten();
            let pairs = pairs.filter_map(|pair| Some((pair["key"].as_str()?, &pair["value"])));
            let pairs: BTreeMap<&str, &Value> = pairs.collect();
            let is_there = |number: usize| {
                let is = pairs.get(key(number).as_str());
                is.is_some_and(|is| **is == value(number))
            };
            lost.extend((begin..end).filter(|number| !is_there(*number)));
        }
        lost
    }

    /// The answer to a request, or to this question in JSON. A failed request is made again, until `LIMIT`.
    #[track_caller]
    fn read(&self, url: &str, question: Option<&Value>) -> Value {
        let mut last = String::new();
        let read = poll(LIMIT, || {
            let answer = self.ask(url, question);
            answer.map_err(|why| last = why).ok()
        });
        read.unwrap_or_else(|| panic!("{url} cannot be read within {} s: {last}", LIMIT.as_secs()))
    }

    /// The answer to one request, or to this question in JSON.
    ///
    /// # Errors
    /// There is no answer within `REQUEST`, it is a refusal, or it is no JSON.
    pub(crate) fn ask(&self, url: &str, question: Option<&Value>) -> Result<Value, String> {
        let answer = self.runtime.block_on(async {
            match question {
                None => self.client.get(url, REQUEST).await,
                Some(question) => self.client.post(url, question.to_string(), REQUEST).await,
            }
        })?;
        if answer.status != 200 {
            return Err(answer.told());
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("no JSON: {error}"))
    }
}
