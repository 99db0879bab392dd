//! The node whose identity a worker keeps. It needs neither settings nor a role, so a clean can use it when both are gone.

use std::path::PathBuf;

use crate::host::Host;
use crate::resource::ResourceResult;
use crate::resource::kubernetes::pki::kubeconfig::kubeconfig_yaml::KubeconfigYaml;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::certificate::spec::CLUSTER;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{
    NODE_CERTIFICATE, NODE_KUBECONFIG, authority_paths, certificate_paths, kubeconfig_path,
};

/// Users of nodes, as the API server names them.
const NODE: &str = "system:node:";

/// A worker's node, as the certificate that this host keeps names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptNode {
    /// Its name.
    pub name: String,
    /// Its kubeconfig, if it is there.
    pub kubeconfig: Option<PathBuf>,
}

/// The node of this worker; `None` on a host that is a master, or that has never had the certificate of a node. The certificate may be over.
/// Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub async fn kept_node(host: &dyn Host) -> ResourceResult<Option<KeptNode>> {
    if host.entry(&authority_paths(CLUSTER).key).await?.is_some() {
        return Ok(None);
    }
    let path = kubeconfig_path(NODE_KUBECONFIG);
    let (_, content) = Stored::read(host, &path).await?;
    let kubeconfig = content.bytes();
    let kubeconfig =
        kubeconfig.and_then(|bytes| serde_yaml::from_slice::<KubeconfigYaml>(bytes).ok());
    let embedded = kubeconfig
        .as_ref()
        .and_then(|its| its.client_certificate().ok().flatten());
    let embedded = embedded.map_or(Content::Missing, Content::Bytes);
    let file = certificate_paths(NODE_CERTIFICATE).certificate;
    let (_, file) = Stored::read(host, &file).await?;
    let mut names = [embedded, file].into_iter().filter_map(|content| {
        let leaf = content.parse(|pem| Certificate::parse("", pem))?.ok()?;
        let name = leaf.facts.common_name.strip_prefix(NODE)?;
        (!name.is_empty()).then(|| name.to_owned())
    });
    Ok(names.next().map(|name| KeptNode {
        name,
        kubeconfig: kubeconfig.map(|_| path),
    }))
}
