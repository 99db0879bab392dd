//! A host's certificates from outside: made older than they are, and a client certificate of our own.

use std::path::Path;
use std::time::{Duration, SystemTime};

use engine::host::fake::FakeHost;
use engine::plan::Plan;
use engine::resource::pki::{
    Authority, CertificateSpec, Issued, Usage, authority_paths, certificate_paths,
};
use engine::resource::{AuthoritySpec, Context, NoSecrets, Outputs, Receipt, Resource, Spec};
use lab::package::ROLE;

use crate::load::{Asker, Credentials};
use crate::master::Master;

/// The host's authorities and the certificates that its role has.
pub struct LeafCertificates<'a> {
    master: &'a Master,
    authorities: FakeHost,
    specs: Vec<CertificateSpec>,
}

impl<'a> LeafCertificates<'a> {
    /// Gives a bare host authorities that are months old already, so that a certificate may have been issued at any time
    /// since.
    ///
    /// # Panics
    /// The role cannot be planned there.
    #[must_use]
    pub fn plant(master: &'a Master) -> Self {
        let run = master.nodelet(&["plan", "--role", ROLE, "--json"]).exits(0);
        let planned: serde_json::Value = run.json();
        let plan: Plan = serde_json::from_value(planned["plan"].clone()).expect("a plan");
        // The fake host's clock begins in 2026.
        let authorities = FakeHost::new();
        let mut specs = Vec::new();
        for step in plan.phases.into_iter().flat_map(|phase| phase.steps) {
            match step.spec {
                Spec::Certificate(certificate) => specs.push(certificate),
                Spec::Authority(authority) => {
                    wait(make(&authorities, &authority));
                    let paths = authority_paths(&authority.name);
                    let directory = paths.directory.display();
                    master.sh(&format!("install -d -m 0700 {directory}"));
                    for (path, mode) in [(&paths.certificate, 0o644), (&paths.key, 0o600)] {
                        put(master, path, &text(&authorities, path), mode);
                    }
                }
                _ => {}
            }
        }
        Self {
            master,
            authorities,
            specs,
        }
    }

    /// Paths of all certificates, below `certs`.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        self.specs.iter().map(|spec| spec.path.as_str()).collect()
    }

    /// Replaces a certificate by one of this age and this life.
    ///
    /// # Panics
    /// The role has no such certificate.
    pub fn replace(&self, path: &str, age: Duration, life: Duration) {
        let spec = self.specs.iter().find(|spec| spec.path == path);
        let spec = CertificateSpec {
            life,
            ..spec.expect("the role has it").clone()
        };
        let issued = self.issue(&spec, SystemTime::now() - age);
        let paths = certificate_paths(path);
        put(self.master, &paths.key, issued.key.expose_pem(), 0o600);
        put(self.master, &paths.certificate, &issued.certificate, 0o644);
    }

    /// A client with a certificate for this host's API server, which is good for a day.
    #[must_use]
    pub fn asker(&self) -> Asker {
        let admin = self.specs.iter().find(|spec| spec.path == "admin");
        let spec = CertificateSpec {
            common_name: "load".to_owned(),
            usage: Usage::Client,
            life: Duration::from_secs(24 * 3600),
            ..admin.expect("the role has it").clone()
        };
        let issued = self.issue(&spec, SystemTime::now());
        Asker {
            url: format!(
                "https://{}/api/v1/namespaces/default",
                self.master.host().address()
            ),
            credentials: Credentials {
                roots: text(&self.authorities, &authority_paths("cluster").certificate),
                certificate: issued.certificate,
                key: issued.key.expose_pem().to_owned(),
            },
        }
    }

    /// Serial numbers of the certificates on the host's disk, by path.
    #[must_use]
    pub fn serials(&self) -> Vec<(String, String)> {
        let listed: serde_json::Value = self.master.nodelet(&["certs", "--json"]).json();
        let all = listed["certificates"].as_array().expect("a list");
        all.iter()
            .filter(|one| one["kind"] == "certificate")
            .map(|one| {
                let text =
                    |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                (text(&one["name"]), text(&one["certificate"]["serial"]))
            })
            .collect()
    }

    fn issue(&self, spec: &CertificateSpec, at: SystemTime) -> Issued {
        let authority = wait(Authority::read(&self.authorities, &spec.authority));
        let authority = authority.expect("it can be read").expect("it is there");
        authority.issue(spec, at).expect("it is issued")
    }
}

async fn make(host: &FakeHost, authority: &AuthoritySpec) {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let observed = authority.observe(&cx).await.expect("it can be observed");
    let mut receipt = Receipt::default();
    let made = authority.converge(&observed, &cx, &mut receipt);
    made.await.expect("it is made");
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

fn text(host: &FakeHost, path: &Path) -> String {
    host.with_world(|world| world.text(path))
        .expect("it is there")
}

fn put(master: &Master, path: &Path, text: &str, mode: u32) {
    let path = path.to_str().expect("a text");
    let written = master.host().put(text.as_bytes(), path, mode);
    written.expect("the file is written");
}
