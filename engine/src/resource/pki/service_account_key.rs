//! The key pair of service-account tokens.
//!
//! The controller-manager signs with `svcacct.key` and the API server verifies with `svcacct.pub`. The private
//! half is PKCS #8 (`PRIVATE KEY`) and the public half `PUBLIC KEY`. Kubernetes takes PKCS #8 for a key that
//! signs (`keyutil.ParsePrivateKeyPEM` in client-go), but for one that verifies (`ParsePublicKeysPEM`) it takes an
//! EC private key only in SEC 1 form: give `--service-account-key-file` the public half.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::held::{Content, Held, PUBLIC};
use super::{PkiError, PrivateKey, key, service_account_paths};
use crate::resource::change::Differences;
use crate::resource::file::PRIVATE;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// The key that signs service-account tokens. It is made where there is none and never replaced, because every
/// token it signed would end with it; an unreadable one is an error that says what to do. The public half is
/// derived from it, and put right whenever it differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountKeySpec {}

/// The key pair as it stands.
#[derive(Debug)]
pub struct Observed {
    absent: bool,
    key: Held,
    public: Held,
    /// The public half as it should be; `None` while there is no key.
    should: Option<String>,
    /// Whether it is as it should be.
    matches: bool,
}

#[async_trait]
impl Resource for ServiceAccountKeySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        "service-account".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let (key_path, public_path) = service_account_paths();
        let (key, content) = Held::read(cx.host, &key_path).await?;
        let (public, public_content) = Held::read(cx.host, &public_path).await?;
        let should = if cx.absent {
            None
        } else {
            public_half(&content)?
        };
        let matches = matches!(
            (&should, public_content.bytes()),
            (Some(should), Some(is)) if should.as_bytes() == is
        );
        Ok(Observed {
            absent: cx.absent,
            key,
            public,
            should,
            matches,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        if observed.absent {
            let there = observed.key.is_there() || observed.public.is_there();
            return there.then(|| Change::new(Action::Remove));
        }
        if !observed.key.is_there() {
            return Some(Change::new(Action::Create).with("kind", "", "ECDSA P-256"));
        }
        let mut differences = Differences::default();
        if !observed.matches {
            let before = if observed.public.is_there() {
                "of another key"
            } else {
                "missing"
            };
            differences.note("public half", before, "derived from the key");
        }
        observed.key.compare(&mut differences, PRIVATE);
        observed.public.compare(&mut differences, PUBLIC);
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if observed.absent {
            observed.key.remove(cx.host, receipt).await?;
            return observed.public.remove(cx.host, receipt).await;
        }
        let should = match &observed.should {
            Some(should) => {
                observed.key.repair(cx.host, PRIVATE, receipt).await?;
                should.clone()
            }
            None => {
                let pair = key::generate().map_err(|error| error.at(action("make")))?;
                let pem = PrivateKey::from(&pair);
                observed
                    .key
                    .put(cx.host, pem.expose_pem().as_bytes(), PRIVATE, receipt)
                    .await?;
                pair.public_key_pem()
            }
        };
        if observed.matches {
            return observed.public.repair(cx.host, PUBLIC, receipt).await;
        }
        observed
            .public
            .put(cx.host, should.as_bytes(), PUBLIC, receipt)
            .await
    }

    fn paths(&self) -> Vec<PathBuf> {
        let (key, public) = service_account_paths();
        vec![key, public]
    }
}

/// The public half of the key that stands there.
fn public_half(content: &Content) -> ResourceResult<Option<String>> {
    let parsed = content
        .parse(|pem| key::parse(pem).map(|pair| pair.public_key_pem()))
        .transpose();
    parsed.map_err(|problem| {
        let path = service_account_paths().0;
        let error = PkiError::Precious {
            problem: format!("{}: {problem}", path.display()),
            help: "nothing was changed. Put the right key back from a backup or another master; if it is lost, \
                   move the file away: a new key is made then, and every service-account token has to be renewed"
                .to_owned(),
        };
        error.at(action("read"))
    })
}

fn action(verb: &str) -> String {
    format!("{verb} the service-account key")
}
