//! Kubeconfigs that contain their certificate and key, or the paths of both.
//!
//! A kubeconfig is written again if its certificate, its authority or anything else in it differs. `kubeconfig_yaml` has the text.
//!
//! Not here: its certificate (`resource::pki::certificate`), and clients that use a kubeconfig (`host::live::kubernetes`). Start with this
//! file.

pub(in crate::resource) mod kubeconfig_yaml;

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::kubernetes::pki::kubeconfig::kubeconfig_yaml::KubeconfigYaml;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{Authority, PkiError, certificate_paths, kubeconfig_path, validate};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// A kubeconfig: the address of the API server, the trusted authority and the client's identity. It is written again if its
/// certificate, its authority or anything else in it differs.
///
/// Records of earlier versions have a field `namespace`, so unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigSpec {
    /// Its path below `kubeconfigs` without `.yaml`, for example `admin` or `kube-proxy/kubeconfig`.
    pub name: String,
    /// URL of the API server.
    pub server: String,
    /// Path below `certs` of the client certificate.
    pub certificate: String,
    /// Name of the authority that signed the server's certificate.
    pub authority: String,
    /// Name of the user entry.
    pub user: String,
    /// Whether the kubeconfig contains the paths of certificate and key instead of their content: then its user finds a renewed one there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_path: bool,
}

/// The current kubeconfig, and the desired one.
pub struct Observed {
    file: Stored,
    content: Content,
    /// `Err` says what is missing for it.
    should: Result<KubeconfigYaml, String>,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Both contents contain a key.
        f.debug_struct("Observed")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl KubeconfigSpec {
    /// Checks the specification.
    ///
    /// # Errors
    /// The invalid field, and why it is invalid.
    pub fn validate(&self) -> Result<(), PkiError> {
        validate::path("name", &self.name)?;
        validate::server("server", &self.server)?;
        validate::path("certificate", &self.certificate)?;
        validate::component("authority", &self.authority)?;
        validate::name("user", &self.user)
    }

    fn failed(&self, error: PkiError) -> ResourceError {
        error.at(format!("plan kubeconfig `{}`", self.name))
    }

    /// The document, made from the current files.
    async fn kubeconfig_yaml(
        &self,
        cx: &Context<'_>,
    ) -> ResourceResult<Result<KubeconfigYaml, String>> {
        let paths = certificate_paths(&self.certificate);
        let Some(authority) = Authority::read(cx.host, &self.authority).await? else {
            return Ok(Err(format!(
                "authority `{}` is not there yet",
                self.authority
            )));
        };
        let mut contents = Vec::with_capacity(2);
        for path in [&paths.certificate, &paths.key] {
            match Stored::read(cx.host, path).await?.1 {
                Content::Bytes(bytes) => contents.push(bytes),
                Content::Missing => return Ok(Err(format!("{} is not there yet", path.display()))),
                Content::Unfit(problem) => {
                    return Ok(Err(format!("{}: {problem}", path.display())));
                }
            }
        }
        let [certificate, key] = contents.as_slice() else {
            return Ok(Err("a file is missing".to_owned()));
        };
        Ok(Ok(KubeconfigYaml::new(
            self,
            authority.pem(),
            certificate,
            key,
        )))
    }
}

#[async_trait]
impl Resource for KubeconfigSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        self.validate().map_err(|error| self.failed(error))?;
        let (file, content) = Stored::read(cx.host, &kubeconfig_path(&self.name)).await?;
        let should = if cx.absent {
            Err("it should not be there".to_owned())
        } else {
            self.kubeconfig_yaml(cx).await?
        };
        Ok(Observed {
            file,
            content,
            should,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        if absent {
            return observed
                .file
                .is_there()
                .then(|| Change::new(Action::Remove));
        }
        let mut differences = Differences::default();
        if !observed.file.is_there() {
            differences.note("server", "", &self.server);
            differences.note("user", "", &self.user);
        }
        match &observed.should {
            Err(reason) => differences.note("content", "", format!("known after apply ({reason})")),
            Ok(should) if observed.file.is_there() => {
                should.compare(&observed.content, &mut differences);
            }
            Ok(_) => {}
        }
        if !observed.file.is_there() {
            return differences.into_change(Action::Create);
        }
        observed.file.compare(&mut differences, PRIVATE);
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if cx.absent {
            return observed.file.remove(cx.host, receipt).await;
        }
        let should = observed
            .should
            .as_ref()
            .map_err(|reason| ResourceError::Missing {
                what: format!("write kubeconfig `{}`: {reason}", self.name),
            })?;
        let text = should.render().map_err(|error| self.failed(error))?;
        if observed.content.bytes() == Some(text.as_bytes()) {
            return observed.file.repair(cx.host, PRIVATE, receipt).await;
        }
        observed
            .file
            .put(cx.host, text.as_bytes(), PRIVATE, receipt)
            .await
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![kubeconfig_path(&self.name)]
    }
}
