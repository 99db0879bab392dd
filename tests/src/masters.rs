//! The masters of a simulated worker's cluster: they have made its join file, and sign its requests for certificates.
//!
//! They are on another host, so nothing here counts as a call of the worker. As real masters, they end the token of the join file when its
//! node is there, and sign only one key of each kind for a token.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use engine::exec::node_certificate_spec;
use engine::host::fake::FakeHost;
use engine::host::{CertificateRequest, RequestState};
use engine::kubernetes::admission::{Admission, TokenRecord};
use engine::kubernetes::join_file::{
    IDENTITY, JOIN_FILE, JoinContent as _, JoinFile, Token, new_identity, public_key,
};
use engine::kubernetes::node_request::{Granted, Known, Requester, Reserved, decide, requester};
use engine::plan::Plan;
use engine::resource::Spec;
use engine::resource::pki::Authority;

use crate::block_on;

/// Files of the authority, as a script makes them.
const CERTIFICATE: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";
const KEY: &str = "/etc/pf9/kube.d/ca/cluster/ca.key";
/// The worker's record of the authority. Only a purge removes it.
const RECORD: &str = "/var/opt/pf9/nodelet/kept/authority-cluster.json";
/// How long the masters' certificates are valid.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The end of the join file's validity: the year 2100.
const EXPIRES: u64 = 4_102_444_800;

/// Certificate and key of the cluster's authority.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityFiles {
    certificate: String,
    key: String,
}

impl AuthorityFiles {
    /// A phase of a master that makes them.
    pub(crate) const SCRIPT: &str = r#"
phase("example").about("An authority.").nodes(["master"]);
directory("/etc/pf9");
directory("/etc/pf9/kube.d");
directory("/etc/pf9/kube.d/ca").mode("0700");
certificate_authority("cluster").common_name("kubernetes").years(10);
"#;

    /// Those that this phase has made on a host.
    pub(crate) fn of(host: &FakeHost) -> Option<Self> {
        let read = |path: &str| host.with_world(|world| world.text(path));
        let (certificate, key) = read(CERTIFICATE).zip(read(KEY))?;
        Some(Self { certificate, key })
    }
}

/// The node that a worker's plan joins, and the URL of its API server; `None` if the plan is not of a worker.
fn joining(plan: &Plan) -> Option<(String, String)> {
    if plan.node != "worker" {
        return None;
    }
    let steps = || plan.phases.iter().flat_map(|phase| &phase.steps);
    let node = steps().find_map(|step| match &step.spec {
        Spec::JoinFile(join) => Some(join.node.clone()),
        _ => None,
    })?;
    let server = steps().find_map(|step| match &step.spec {
        Spec::Kubeconfig(kubeconfig) if kubeconfig.name == "kubelet" => {
            Some(kubeconfig.server.clone())
        }
        _ => None,
    })?;
    Some((node, server))
}

/// The masters of a worker's plan; `None` of another plan.
pub(crate) fn of(plan: &Plan, files: fn() -> &'static AuthorityFiles) -> Option<Masters> {
    let (node, server) = joining(plan)?;
    let files = files();
    let host = FakeHost::new();
    host.with_world_mut(|world| {
        world.file_with_mode(CERTIFICATE, &files.certificate, 0o600);
        world.file_with_mode(KEY, &files.key, 0o600);
    });
    let authority = block_on(Authority::read(&host, "cluster"));
    let authority = authority.expect("it can be read").expect("it is there");
    Some(Masters {
        node,
        server,
        certificate: files.certificate.clone(),
        authority,
    })
}

/// Masters that sign for one node.
pub(crate) struct Masters {
    node: String,
    server: String,
    certificate: String,
    authority: Authority,
}

/// The host of a worker's plan with the join file from its masters, which are up. The host of another plan stays as it is.
pub(crate) fn admit(
    plan: &Plan,
    files: fn() -> &'static AuthorityFiles,
    host: FakeHost,
) -> FakeHost {
    let Some((node, server)) = joining(plan) else {
        return host;
    };
    let (secret, public) = new_identity();
    let sealed = join_file(&node, &server, &files().certificate, &public);
    let host = host.with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| {
        world.file_with_mode(IDENTITY, &secret, 0o600);
        world.file_with_mode(JOIN_FILE, &sealed, 0o600);
    });
    host
}

/// A join file with a new token.
fn join_file(node: &str, server: &str, certificate: &str, public: &str) -> String {
    let token = Token::random().expect("random numbers");
    let join = JoinFile::new(node, server, certificate, token, EXPIRES);
    let sealed = join.seal(public).expect("it can be encrypted");
    String::from_utf8(sealed).expect("it is ASCII")
}

impl Masters {
    /// What an operator does before a worker joins again: after a purge, it needs another join file for a new key, because the purge has
    /// removed both. If only the token has ended, it needs another file for the same key.
    pub(crate) fn admit_again(&self, worker: &FakeHost) {
        self.end_tokens(worker);
        let text = |path: &str| worker.with_world(|world| world.text(path));
        let is_purged = text(JOIN_FILE).is_none() || text(IDENTITY).is_none();
        if is_purged && text(RECORD).is_none() {
            let (secret, public) = new_identity();
            worker.with_world_mut(|world| world.file_with_mode(IDENTITY, &secret, 0o600));
            self.give(worker, &public);
            return;
        }
        let (Some(sealed), Some(identity), None) = (text(JOIN_FILE), text(IDENTITY), text(RECORD))
        else {
            return;
        };
        let has_ended = JoinFile::open(sealed.as_bytes(), &identity).is_ok_and(|file| {
            let user = format!("system:bootstrap:{}", file.token.id());
            worker.with_world(|world| world.refuses_user(&user))
        });
        if let (true, Ok(public)) = (has_ended, public_key(&identity)) {
            self.give(worker, &public);
        }
    }

    /// Puts a new join file for this key on the worker.
    fn give(&self, worker: &FakeHost, public: &str) {
        let sealed = join_file(&self.node, &self.server, &self.certificate, public);
        worker.with_world_mut(|world| {
            // The masters have deleted the node that left. Otherwise it would end the new token at once.
            world.remove_node(&self.node);
            world.file_with_mode(JOIN_FILE, &sealed, 0o600);
        });
    }

    /// Ends the tokens that have asked, once the node is there.
    fn end_tokens(&self, worker: &FakeHost) {
        if !worker.with_world(|world| world.has_node(&self.node)) {
            return;
        }
        for request in worker.with_world(|world| world.certificate_requests()) {
            let is_token = request.requester.starts_with("system:bootstrap:");
            if is_token && !worker.with_world(|world| world.refuses_user(&request.requester)) {
                worker.with_world_mut(|world| world.refuse_user(&request.requester, true));
            }
        }
    }

    /// Whether the token of this request has a certificate of the same kind for another key. The name of a request has a digest of its key.
    fn is_second_key(&self, request: &CertificateRequest, all: &[CertificateRequest]) -> bool {
        let kind = |its| {
            granted(its, &self.node)
                .map(|its| its.certificate.kind())
                .ok()
        };
        let mut others = all.iter().filter(|its| its.name != request.name);
        request.requester.starts_with("system:bootstrap:")
            && others.any(|its| {
                its.requester == request.requester
                    && its.state == RequestState::Approved
                    && kind(its) == kind(request)
            })
    }

    /// Signs the worker's requests as they come, whenever the work beside it waits. It wakes nothing, so that simulated time goes on.
    ///
    /// # Panics
    /// A request asks for something that no node gets.
    pub(crate) async fn sign(&self, worker: &FakeHost) -> Infallible {
        std::future::poll_fn(|_| {
            self.end_tokens(worker);
            let requests = worker.with_world(|world| world.certificate_requests());
            let pending = |request: &&CertificateRequest| request.state == RequestState::Pending;
            for request in requests.iter().filter(pending) {
                if self.is_second_key(request, &requests) {
                    let reason = "this token was used with another key";
                    worker.with_world_mut(|world| world.deny_request(&request.name, reason));
                    continue;
                }
                let now = worker.with_world(|world| world.now());
                let granted = granted(request, &self.node).expect("a certificate of this node");
                let spec = node_certificate_spec(&granted.certificate, LIFE);
                let pem = self.authority.sign_request(&spec, &request.request, now);
                let pem = pem.expect("it can be signed");
                worker.with_world_mut(|world| world.sign_request(&request.name, pem.as_bytes()));
            }
            Poll::Pending
        })
        .await
    }
}

/// What real masters decide about this request if its node is admitted.
fn granted(request: &CertificateRequest, node: &str) -> Result<Granted, String> {
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(EXPIRES);
    let token = match requester(request) {
        Some(Requester::Token(id)) => Some(TokenRecord {
            id,
            node: node.to_owned(),
            expires,
            replaces: true,
        }),
        Some(Requester::Node(_)) | None => None,
    };
    let admission = Admission {
        node: node.to_owned(),
        token_id: token.as_ref().map(|token| token.id.clone()),
        ..Admission::default()
    };
    let known = Known {
        now: SystemTime::UNIX_EPOCH,
        token: token.as_ref(),
        admission: Some(&admission),
        admissions: &BTreeMap::new(),
        nodes: &BTreeMap::new(),
        reserved: &Reserved::default(),
        pending_before: 0,
    };
    decide(request, &known)
}
