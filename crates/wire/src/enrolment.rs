//! What a host and the plane say to one another when the host is enrolled.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of [`Request`] and [`Response`] that is written.
pub const VERSION: u32 = 1;
/// Where a request is posted to, as JSON.
pub const PATH: &str = "/v1/enroll";
/// The first label of the server name at which the plane enrols hosts.
pub const NAME: &str = "enroll";
/// Largest request in bytes: HAProxy holds it in one buffer of 16 KiB.
pub const LARGEST_REQUEST: usize = 12 * 1024;
/// Largest response in bytes.
pub const LARGEST_RESPONSE: usize = 256 * 1024;
/// Longest name of a host, in bytes: that of a DNS name (RFC 1035, section 2.3.4).
pub const LONGEST_HOST_NAME: usize = 253;

/// A text that is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A host asks for its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The token that an operator made for this host.
    pub token: Secret,
    /// The name of the host.
    pub host_name: String,
    /// A certificate request (PKCS #10) in PEM. Only its public key is used.
    pub certificate_request: String,
}

/// The plane has enrolled a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`].
    pub version: u32,
    /// What the plane calls this host, also after it was enrolled again: the common name of its certificate.
    pub host_id: String,
    /// The certificate and its chain without the root, PEM.
    pub certificate: String,
    /// The roots that sign certificates of the plane and of hosts, PEM.
    pub roots: String,
    /// What the host needs to use the message queue; `None` if the plane has none.
    pub message_queue: Option<MessageQueue>,
}

/// A user of the message queue who reaches nothing but the queues of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageQueue {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The virtual host of the broker.
    pub virtual_host: String,
}

/// The plane does not enrol a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
    /// The next thing to try.
    pub next: String,
}

/// The prefix of the queues and of the routing keys of a host.
#[must_use]
pub fn queue_prefix(host_id: &str) -> String {
    format!("host.{host_id}.")
}

/// Whether a text may be the name of a host: labels of 1 to 63 small letters, digits and hyphens, none at an end of a label, with dots between them
/// (RFC 1123, section 2.1).
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= LONGEST_HOST_NAME && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_hosts_are_dns_names() {
        for name in ["a", "host-1", "host-1.example.com", "1"] {
            assert!(is_host_name(name), "{name}");
        }
        let long = ["a".repeat(63), "b".repeat(64), ["c"; 130].join(".")];
        assert!(is_host_name(&long[0]));
        for name in [
            "", ".", "a.", ".a", "-a", "a-", "A", "a b", "a/b", "a\n", "ä", &long[1], &long[2],
        ] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let request = Request {
            version: VERSION,
            token: Secret("hidden".to_owned()),
            host_name: "host-1".to_owned(),
            certificate_request: String::new(),
        };
        let shown = format!("{request:?}");
        assert!(!shown.contains("hidden"), "{shown}");
        let text = serde_json::to_string(&request).expect("it is JSON");
        assert!(text.contains(r#""token":"hidden""#), "{text}");
        let back: Request = serde_json::from_str(&text).expect("it is the same");
        assert_eq!(back, request);
    }

    #[test]
    fn fields_of_a_later_version_are_ignored() {
        let text = r#"{"version":1,"host_id":"a","certificate":"","roots":"","message_queue":null,"later":1}"#;
        let response: Response = serde_json::from_str(text).expect("it is read");
        assert_eq!(response.host_id, "a");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_message_is_read_as_it_was_written(
            version in any::<u32>(),
            texts in proptest::array::uniform4("(?s).{0,200}"),
            has_queue in any::<bool>(),
        ) {
            let [first, second, third, fourth] = texts;
            let request = Request {
                version,
                token: Secret(first.clone()),
                host_name: second.clone(),
                certificate_request: third.clone(),
            };
            let queue = MessageQueue {
                user: third.clone(),
                password: Secret(fourth.clone()),
                virtual_host: second.clone(),
            };
            let response = Response {
                version,
                host_id: first,
                certificate: second,
                roots: third.clone(),
                message_queue: has_queue.then_some(queue),
            };
            let refusal = Refusal { error: third, next: fourth };
            let text = serde_json::to_string(&request).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Request>(&text).expect("a request"), request);
            let text = serde_json::to_string(&response).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Response>(&text).expect("a response"), response);
            let text = serde_json::to_string(&refusal).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Refusal>(&text).expect("a refusal"), refusal);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,300}") {
            let _ = serde_json::from_str::<Request>(&text);
            let _ = serde_json::from_str::<Response>(&text);
            let _ = serde_json::from_str::<Refusal>(&text);
        }
    }
}
