//! One request for a certificate and its way to an answer.
//!
//! A refusal of the identity counts only if it lasts: an API server that has just started may not know its tokens and roles yet. That wait ends early
//! if another join file is put in place.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::access::{NodeAccess, usable_token};
use crate::host::{Host, HostError, NewCertificateRequest, RequestState};
use crate::kubernetes::join_file::{JOIN_FILE, Token};
use crate::model::{chain, doubled};
use crate::resource::{ResourceError, ResourceResult};

/// Pauses between two looks at a request: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long the API server has to refuse an identity, and in how many answers in a row, until that is final.
const LASTING: (Duration, usize) = (Duration::from_secs(30), 3);
/// Pause between two looks at the join file while the identity is refused.
const LOOK_AT_FILE: Duration = Duration::from_secs(1);

/// One request.
pub(super) struct Exchange<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) access: &'a NodeAccess,
    /// The certificate.
    pub(super) path: &'a str,
    pub(super) request: &'a NewCertificateRequest,
    /// How long all exchanges for the certificate may take.
    pub(super) wait: Duration,
    /// Asks the run to end.
    pub(super) cancel: Option<&'a CancellationToken>,
}

/// The end of an exchange.
pub(super) enum Answer {
    /// The certificate.
    Signed(Vec<u8>),
    /// A request of another identity has this name, and was denied.
    OfAnother(Refusal),
    /// The cluster refuses what this identity asks for.
    Refused(Refusal),
}

/// Why the cluster refuses, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) next: String,
}

/// How far a request has come.
enum Progress {
    Ended(Answer),
    /// Not signed yet, with the state for the message.
    Waiting(&'static str),
}

/// Answers in a row that refuse the identity.
struct Refusing {
    since: Duration,
    answers: usize,
    /// The token of the join file that was there at the first of them.
    token: Option<Token>,
}

impl Refusing {
    /// Whether that is final. `is_last` says that no time is left.
    fn is_final(&self, now: Duration, is_last: bool) -> bool {
        let (least, answers) = LASTING;
        self.answers >= answers && (is_last || now.saturating_sub(self.since) >= least)
    }
}

impl Exchange<'_> {
    /// Sends the request unless it is there already, and waits for its certificate until this time (`Host::elapsed`). Cancel safe: the next
    /// call continues with the request.
    ///
    /// # Errors
    /// There is no answer in time, the run is asked to end, the signer has failed, or the API server refuses for another reason than the
    /// identity, or the identity of a join file that was replaced meanwhile.
    pub(super) async fn certificate(&self, until: Duration) -> ResourceResult<Answer> {
        let asked_to_end = async {
            match self.cancel {
                Some(cancel) => cancel.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = asked_to_end => Err(self.interrupted()),
            answer = self.answer(until) => answer,
        }
    }

    async fn answer(&self, until: Duration) -> ResourceResult<Answer> {
        let mut looks = 0;
        let mut sent = false;
        let mut refusing: Option<Refusing> = None;
        loop {
            let looked = self.look(&mut sent).await;
            let now = self.host.elapsed();
            let left = until.saturating_sub(now);
            let state = match looked {
                Ok(Progress::Ended(answer)) => return Ok(answer),
                Ok(Progress::Waiting(state)) => {
                    refusing = None;
                    state.to_owned()
                }
                Err(ResourceError::Host(error)) if self.is_identity_refused(&error) => {
                    let mut its = match refusing {
                        Some(its) => its,
                        None => Refusing {
                            since: now,
                            answers: 0,
                            token: self.token_of_file().await,
                        },
                    };
                    its.answers += 1;
                    if its.is_final(now, left.is_zero()) {
                        return Ok(Answer::Refused(self.refused(&error)));
                    }
                    refusing = Some(its);
                    format!(
                        "the API server refuses the identity: {}",
                        chain(&error).join(": ")
                    )
                }
                // The API server may be away for a moment, for example while its host starts again.
                Err(ResourceError::Host(error)) if !error.is_permanent() => {
                    refusing = None;
                    chain(&error).join(": ")
                }
                Err(error) => return Err(error),
            };
            if left.is_zero() {
                return Err(self.not_signed(&state));
            }
            looks += 1;
            let pause = doubled(looks, PAUSES.0, PAUSES.1);
            // Many hosts may wait at the same time.
            let pause = pause.mul_f64(rand::random_range(0.9..1.1)).min(left);
            let Some(its) = &refusing else {
                self.host.pause(pause).await;
                continue;
            };
            if self.is_replaced_within(pause, its.token.as_ref()).await {
                return Err(self.replaced(&state));
            }
        }
    }

    /// The token of the join file, if there is one that can be used. A file that cannot be read must not end the wait.
    async fn token_of_file(&self) -> Option<Token> {
        usable_token(self.host).await.ok().flatten()
    }

    /// Pauses until the time is over, or until a join file with another token than this one is there. Returns whether one is.
    async fn is_replaced_within(&self, pause: Duration, before: Option<&Token>) -> bool {
        let mut left = pause;
        loop {
            let now = self.token_of_file().await;
            if now.is_some() && now.as_ref() != before {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            let part = left.min(LOOK_AT_FILE);
            self.host.pause(part).await;
            left = left.saturating_sub(part);
        }
    }

    /// One look at the request, which is sent if it is not there.
    async fn look(&self, sent: &mut bool) -> ResourceResult<Progress> {
        let (name, access) = (&self.request.name, self.access.cluster());
        let Some(found) = self.host.certificate_request(access, name).await? else {
            if *sent {
                return Err(ResourceError::Awaited {
                    what: format!(
                        "get certificate `{}` signed: request {name} was deleted before it was signed; the next try sends it again",
                        self.path
                    ),
                    next: "find out who deletes it: masters do if its requester makes too many (`journalctl -u pf9-nodeletd` on the masters)"
                        .to_owned(),
                });
            }
            self.host
                .create_certificate_request(access, self.request)
                .await?;
            *sent = true;
            return Ok(Progress::Waiting("no master has decided about it"));
        };
        *sent = true;
        let rejected = |how: &str, reason: &str| {
            let Refusal { what, next } = self.rejected(how, reason);
            let what = format!("get certificate `{}` signed: {what}", self.path);
            Err(ResourceError::Unmet { what, next })
        };
        match found.state {
            RequestState::Denied(reason) => {
                let refusal = self.rejected("was denied", &reason);
                Ok(Progress::Ended(if self.access.is_of(&found.requester) {
                    Answer::Refused(refusal)
                } else {
                    Answer::OfAnother(refusal)
                }))
            }
            RequestState::Failed(reason) => rejected("could not be signed", &reason),
            RequestState::Pending | RequestState::Approved
                if found.signer != self.request.signer =>
            {
                let reason = format!("it is for the signer {}", found.signer.escape_debug());
                rejected("is not ours", &reason)
            }
            RequestState::Pending => Ok(Progress::Waiting("no master has decided about it")),
            RequestState::Approved => Ok(match found.certificate {
                Some(certificate) => Progress::Ended(Answer::Signed(certificate)),
                None => Progress::Waiting("it is approved, and no master has signed it"),
            }),
        }
    }

    fn interrupted(&self) -> ResourceError {
        ResourceError::Awaited {
            what: format!(
                "get certificate `{}` signed: nodelet was asked to end while it waited for the answer to request {}; the next try continues with \
                 this request",
                self.path, self.request.name
            ),
            next: "run `nodelet apply`; nodeletd tries again when it runs".to_owned(),
        }
    }

    /// Another phase takes the token from the join file, so this step cannot go on with it.
    fn replaced(&self, state: &str) -> ResourceError {
        ResourceError::Unmet {
            what: format!(
                "get certificate `{}` signed: {state}; another join file was put at {JOIN_FILE} meanwhile, and the phase that reads it comes before \
                 this one",
                self.path
            ),
            next: "run `nodelet apply`, which takes it; nodeletd does so at once".to_owned(),
        }
    }

    fn not_signed(&self, state: &str) -> ResourceError {
        let name = &self.request.name;
        ResourceError::Awaited {
            what: format!(
                "get certificate `{}` signed within {}: request {name}: {state}; the next try continues with this request",
                self.path,
                humantime::format_duration(self.wait)
            ),
            next: format!(
                "look at the request on a master (`kubectl get csr {name}`), and see whether nodeletd runs there, which signs it \
                 (`systemctl status pf9-nodeletd`; by hand: `nodelet pki sign`)"
            ),
        }
    }

    fn rejected(&self, how: &str, reason: &str) -> Refusal {
        let name = &self.request.name;
        let reason: String = reason.escape_debug().take(500).collect();
        let delete = format!(
            "remove the reason, then delete the request on a master (`kubectl delete csr {name}`): while it is there, this host does not ask again"
        );
        Refusal {
            what: format!("request {name} {how}: {reason}"),
            next: format!(
                "{delete}; or issue another join file on a master (`nodelet pki issue`), put it at {JOIN_FILE}, and run `nodelet apply`: \
                 with another token, this host asks anew"
            ),
        }
    }

    /// The message for an identity that the API server does not accept.
    fn refused(&self, error: &HostError) -> Refusal {
        let answer = chain(error).join(": ");
        match self.access {
            NodeAccess::Token { .. } => Refusal {
                what: format!(
                    "the API server refuses the token of the join file: it was used already, revoked, or has expired ({answer})"
                ),
                next: format!(
                    "issue another join file on a master (`nodelet pki issue`, with `--replace` if this host has joined before; `nodelet pki key` here prints \
                     the key for `--to`), and put it at {JOIN_FILE}"
                ),
            },
            NodeAccess::Node(_) => Refusal {
                what: format!("the API server refuses the identity of this node ({answer})"),
                next: format!(
                    "issue another join file on a master (`nodelet pki issue` with `--replace`; `nodelet pki key` here prints the key for `--to`), \
                     put it at {JOIN_FILE}, and run `nodelet apply`; if the cluster \
                     has another authority than this host knows, run `nodelet clean --purge` before"
                ),
            },
        }
    }

    /// Whether the server answered that it does not accept the identity, or that the identity may not do this. A node's identity also has the
    /// authorities that it trusts: after a rotation, the server is one of another authority.
    fn is_identity_refused(&self, error: &HostError) -> bool {
        let HostError::Refused { source, .. } = error else {
            return false;
        };
        let answer = source.to_string();
        let mut statuses = ["(status 401)", "(status 403)"].iter();
        if statuses.any(|status| answer.ends_with(status)) {
            return true;
        }
        let is_node = match self.access {
            NodeAccess::Node(_) => true,
            NodeAccess::Token { .. } => false,
        };
        // The texts of `rustls::Error`, which is deep in the chain.
        let answer = chain(error).join(": ");
        let tls = ["invalid peer certificate", "received fatal alert"];
        is_node && tls.iter().any(|text| answer.contains(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ClusterAccess;
    use crate::host::fake::FakeHost;

    fn access() -> ClusterAccess {
        ClusterAccess::with("/etc/kubeconfig".as_ref())
    }

    /// The message for this answer; `None` if it says nothing about the identity.
    fn message(access: &NodeAccess, answer: &str) -> Option<String> {
        let request = NewCertificateRequest {
            name: "nodelet-a".to_owned(),
            request: Vec::new(),
            signer: String::new(),
            usages: Vec::new(),
        };
        let exchange = Exchange {
            host: &FakeHost::new(),
            access,
            path: "kubelet/apiserver",
            request: &request,
            wait: Duration::from_secs(120),
            cancel: None,
        };
        let error = HostError::refused("get x", answer.to_owned());
        exchange.is_identity_refused(&error).then(|| {
            let Refusal { what, next } = exchange.refused(&error);
            format!("{what}; {next}")
        })
    }

    /// What the API server answers, and the begin of the message; for a token and for a node.
    #[test]
    fn an_identity_that_is_refused_has_its_own_message() {
        let token = NodeAccess::Token {
            access: access(),
            id: "abcdef".to_owned(),
        };
        let node = NodeAccess::Node(access());
        for answer in ["Unauthorized (status 401)", "it may not (status 403)"] {
            let text = message(&token, answer).expect("the token is refused");
            assert!(
                text.contains("was used already, revoked, or has expired"),
                "{text}"
            );
            assert!(
                text.contains("nodelet pki issue") && text.contains(JOIN_FILE),
                "{text}"
            );
            assert!(text.contains(answer), "{text}");
            let text = message(&node, answer).expect("the node is refused");
            assert!(text.contains("refuses the identity of this node"), "{text}");
            assert!(
                text.contains("nodelet pki issue") && text.contains("clean --purge"),
                "{text}"
            );
        }
        assert_eq!(message(&token, "bad request (status 400)"), None);
    }

    /// After a rotation of the authority, the node does not trust the server. The token of a join file has the authorities of that file.
    #[test]
    fn a_server_of_another_authority_refuses_the_node_only() {
        let answer = "client error (Connect): invalid peer certificate: UnknownIssuer";
        assert!(message(&NodeAccess::Node(access()), answer).is_some());
        let token = NodeAccess::Token {
            access: access(),
            id: "abcdef".to_owned(),
        };
        assert_eq!(message(&token, answer), None);
    }

    #[test]
    fn a_refusal_is_final_only_if_it_lasts() {
        let second = Duration::from_secs;
        let refusing = |answers| Refusing {
            since: second(5),
            answers,
            token: None,
        };
        assert!(!refusing(2).is_final(second(60), false), "two answers");
        assert!(!refusing(9).is_final(second(34), false), "too early");
        assert!(refusing(9).is_final(second(35), false));
        assert!(refusing(3).is_final(second(6), true), "no time is left");
        assert!(!refusing(1).is_final(second(6), true), "one answer");
    }
}
