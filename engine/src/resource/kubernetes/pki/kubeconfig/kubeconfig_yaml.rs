//! The text of a kubeconfig (`v1.Config` of `k8s.io/client-go/tools/clientcmd/api/v1`).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::resource::change::Differences;
use crate::resource::pki::stored::Content;
use crate::resource::pki::{KubeconfigSpec, PkiError, certificate_paths};

/// The kubeconfig that operators use. It has the contexts that they know.
const ADMIN: &str = "admin";

/// Name of the only cluster entry.
const CLUSTER: &str = "default-cluster";

/// A kubeconfig. Has no `Debug`, because it contains a key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::resource) struct KubeconfigYaml {
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    certificate_authority_data: String,
    server: String,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

/// Certificate and key as data, or the paths of their files; or a token.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Context {
    cluster: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    user: String,
}

impl KubeconfigYaml {
    /// The kubeconfig of `spec` with the content of these PEM files.
    pub(in crate::resource) fn new(
        spec: &KubeconfigSpec,
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
    ) -> Self {
        let context = |name: &str, namespace: Option<&str>| NamedContext {
            name: name.to_owned(),
            context: Context {
                cluster: CLUSTER.to_owned(),
                namespace: namespace.map(str::to_owned),
                user: spec.user.clone(),
            },
        };
        let contexts = if spec.name == ADMIN {
            vec![
                context("default-context", Some("default")),
                context("system-context", Some("kube-system")),
            ]
        } else {
            vec![context("service-account-context", None)]
        };
        let cluster = Cluster {
            certificate_authority_data: STANDARD.encode(authority),
            server: spec.server.clone(),
        };
        let user = if spec.by_path {
            let paths = certificate_paths(&spec.certificate);
            User {
                client_certificate_data: None,
                client_key_data: None,
                client_certificate: Some(paths.certificate.display().to_string()),
                client_key: Some(paths.key.display().to_string()),
                token: None,
            }
        } else {
            User {
                client_certificate_data: Some(STANDARD.encode(certificate)),
                client_key_data: Some(STANDARD.encode(key)),
                client_certificate: None,
                client_key: None,
                token: None,
            }
        };
        Self {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            clusters: vec![NamedCluster {
                name: CLUSTER.to_owned(),
                cluster,
            }],
            users: vec![NamedUser {
                name: spec.user.clone(),
                user,
            }],
            current_context: contexts[0].name.clone(),
            contexts,
        }
    }

    /// The kubeconfig of a client that has a token only.
    pub(in crate::resource) fn with_token(server: &str, authority: &[u8], token: String) -> Self {
        const USER: &str = "bootstrap";
        Self {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            clusters: vec![NamedCluster {
                name: CLUSTER.to_owned(),
                cluster: Cluster {
                    certificate_authority_data: STANDARD.encode(authority),
                    server: server.to_owned(),
                },
            }],
            users: vec![NamedUser {
                name: USER.to_owned(),
                user: User {
                    client_certificate_data: None,
                    client_key_data: None,
                    client_certificate: None,
                    client_key: None,
                    token: Some(token),
                },
            }],
            current_context: USER.to_owned(),
            contexts: vec![NamedContext {
                name: USER.to_owned(),
                context: Context {
                    cluster: CLUSTER.to_owned(),
                    namespace: None,
                    user: USER.to_owned(),
                },
            }],
        }
    }

    /// A kubeconfig for the same server that names the files of a client certificate and its key.
    pub(in crate::resource) fn with_files(&self, certificate: &Path, key: &Path) -> Self {
        let mut other = self.clone();
        for named in &mut other.users {
            named.user = User {
                client_certificate_data: None,
                client_key_data: None,
                client_certificate: Some(certificate.display().to_string()),
                client_key: Some(key.display().to_string()),
                token: None,
            };
        }
        other
    }

    /// The token of its user.
    pub(in crate::resource) fn token(&self) -> Option<&str> {
        self.users.first()?.user.token.as_deref()
    }

    /// The file's text.
    pub(in crate::resource) fn render(&self) -> Result<String, PkiError> {
        // The library's error could quote a value.
        serde_yaml::to_string(self)
            .map_err(|_| PkiError::Build("the kubeconfig cannot be written as YAML".to_owned()))
    }

    /// Notes the fields that differ in the current file. Data is never shown.
    pub(in crate::resource) fn compare(&self, content: &Content, differences: &mut Differences) {
        let bytes = match content {
            Content::Missing => return,
            Content::Unfit(problem) => {
                return differences.note(
                    "content",
                    format!("unreadable: {problem}"),
                    "written again",
                );
            }
            Content::Bytes(bytes) => bytes,
        };
        if self.render().is_ok_and(|text| text.as_bytes() == bytes) {
            return;
        }
        let Ok(is) = serde_yaml::from_slice::<Self>(bytes) else {
            return differences.note(
                "content",
                "unreadable: it is not a kubeconfig",
                "written again",
            );
        };
        let mut named = false;
        let mut data = |field: &str, before: Option<&str>, after: Option<&str>| {
            if before != after {
                named = true;
                differences.note(field, "other data", "the data of its source file");
            }
        };
        data("certificate authority", is.authority(), self.authority());
        data("client certificate", is.certificate(), self.certificate());
        data("client key", is.key(), self.key());
        if is.server() != self.server() {
            named = true;
            let text = |server: Option<&str>| server.unwrap_or_default().to_owned();
            differences.note("server", text(is.server()), text(self.server()));
        }
        if is.users.first().map(|user| &user.name) != self.users.first().map(|user| &user.name) {
            named = true;
            let text = |kubeconfig_yaml: &Self| {
                kubeconfig_yaml.users.first().map(|user| user.name.clone())
            };
            differences.note(
                "user",
                text(&is).unwrap_or_default(),
                text(self).unwrap_or_default(),
            );
        }
        if !named {
            differences.note("content", "written in another form", "written again");
        }
    }

    /// The client certificate in PEM; `None` if there is a path instead. The error says what is wrong with it.
    pub(in crate::resource) fn client_certificate(&self) -> Result<Option<Vec<u8>>, String> {
        let user = self.users.first().map(|user| &user.user);
        let data = user.and_then(|user| user.client_certificate_data.as_ref());
        data.map(|data| STANDARD.decode(data))
            .transpose()
            .map_err(|_| "its client certificate is not base64".to_owned())
    }

    fn server(&self) -> Option<&str> {
        Some(&self.clusters.first()?.cluster.server)
    }

    fn authority(&self) -> Option<&str> {
        Some(&self.clusters.first()?.cluster.certificate_authority_data)
    }

    fn certificate(&self) -> Option<&str> {
        let user = &self.users.first()?.user;
        user.client_certificate_data
            .as_deref()
            .or(user.client_certificate.as_deref())
    }

    fn key(&self) -> Option<&str> {
        let user = &self.users.first()?.user;
        user.client_key_data
            .as_deref()
            .or(user.client_key.as_deref())
    }
}
