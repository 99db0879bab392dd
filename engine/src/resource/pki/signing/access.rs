//! The identities with which this host asks for certificates: its own, or the token of its join file.

use std::path::Path;
use std::time::SystemTime;

use crate::host::{ClusterAccess, Host};
use crate::kubernetes::join_file::{IDENTITY, JOIN_FILE, JoinContent as _, JoinFile, Token};
use crate::resource::files::file::PRIVATE;
use crate::resource::kubernetes::pki::kubeconfig::kubeconfig_yaml::KubeconfigYaml;
use crate::resource::pki::certificate::facts::Certificate;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{
    Authority, BOOTSTRAP_KUBECONFIG, NODE_CERTIFICATE, NODE_KUBECONFIG, certificate_paths, keys,
    kubeconfig_path, request_kubeconfig,
};
use crate::resource::{Receipt, ResourceError, ResourceResult};

/// How this host asks.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::resource::pki) enum NodeAccess {
    /// As its node.
    Node(ClusterAccess),
    /// With the token of its join file.
    Token {
        /// The access.
        access: ClusterAccess,
        /// The id of the token, which is not secret.
        id: String,
    },
}

impl NodeAccess {
    /// The identities to use now, the one to try first comes first: the node's own while it is valid; then the token, if a join file with it
    /// is there and valid, or if there is nothing else. With `token_first`, the token comes before the node's own.
    ///
    /// A node whose first certificate is newer than its kubeconfig, or that has no kubeconfig yet, gets one that names the files of the
    /// certificate. Cancel safe.
    ///
    /// # Errors
    /// The host has neither, or cannot be read.
    pub(in crate::resource::pki) async fn candidates(
        host: &dyn Host,
        authority: &Authority,
        token_first: bool,
    ) -> ResourceResult<Vec<Self>> {
        let bootstrap = bootstrap(host).await?;
        let mut all = Vec::new();
        let in_kubeconfig = in_kubeconfig(host, authority).await?;
        if in_kubeconfig.is_some() {
            let path = kubeconfig_path(NODE_KUBECONFIG);
            all.push(Self::Node(ClusterAccess::with(&path)));
        }
        let on_disk = on_disk(host, authority).await?;
        if let (Some(on_disk), Some(bootstrap)) = (on_disk, &bootstrap)
            && in_kubeconfig.is_none_or(|known| known.der != on_disk.der)
        {
            all.push(Self::Node(access_with_files(host, bootstrap).await?));
        }
        if let Some((id, token)) = bootstrap.as_ref().and_then(token)
            && (all.is_empty() || is_usable(host, token).await?)
        {
            let path = kubeconfig_path(BOOTSTRAP_KUBECONFIG);
            all.push(Self::Token {
                access: ClusterAccess::with(&path),
                id,
            });
        }
        if all.is_empty() {
            return Err(ResourceError::Unmet {
                what: format!(
                    "ask the cluster for certificates: this host has neither a valid certificate of its node nor a token ({} has none)",
                    kubeconfig_path(BOOTSTRAP_KUBECONFIG).display()
                ),
                next: format!(
                    "put a join file for this host at {JOIN_FILE}, and run `nodelet apply`"
                ),
            });
        }
        if token_first {
            all.sort_by_key(|one| matches!(one, Self::Node(_)));
        }
        Ok(all)
    }

    /// For the calls.
    pub(in crate::resource::pki) fn cluster(&self) -> &ClusterAccess {
        match self {
            Self::Node(access) | Self::Token { access, .. } => access,
        }
    }

    /// Who asks, without a secret: a part of what names a request.
    pub(in crate::resource::pki) fn identity(&self) -> &str {
        match self {
            Self::Node(_) => "node",
            Self::Token { id, .. } => id,
        }
    }

    /// Whether a request of this user, as the API server names it, is one of this identity.
    pub(in crate::resource::pki) fn is_of(&self, requester: &str) -> bool {
        match self {
            Self::Node(_) => requester.starts_with("system:node:"),
            Self::Token { id, .. } => requester.strip_prefix("system:bootstrap:") == Some(id),
        }
    }
}

/// Whether this host has a valid identity of its node: its kubeconfig, or the certificate for it. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(in crate::resource::pki) async fn has_identity(
    host: &dyn Host,
    authority: &Authority,
) -> ResourceResult<bool> {
    Ok(
        in_kubeconfig(host, authority).await?.is_some()
            || on_disk(host, authority).await?.is_some(),
    )
}

/// When the certificate of the node in its file ended, by the clock of this host; `None` if it has not ended, or is of another cluster. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(in crate::resource::pki) async fn identity_ended(
    host: &dyn Host,
    authority: &Authority,
) -> ResourceResult<Option<SystemTime>> {
    let path = certificate_paths(NODE_CERTIFICATE).certificate;
    let (_, stored) = Stored::read(host, &path).await?;
    let Some(Ok(leaf)) = stored.parse(|pem| Certificate::parse("", pem)) else {
        return Ok(None);
    };
    let mut trusted = authority.trusted();
    let is_ours = trusted.any(|its| leaf.is_signed_by(its));
    let end = leaf.facts.not_after;
    Ok((is_ours && end <= host.now()).then_some(end))
}

/// The certificate of the node in its file, if it is valid and its key is there.
async fn on_disk(host: &dyn Host, authority: &Authority) -> ResourceResult<Option<Certificate>> {
    let paths = certificate_paths(NODE_CERTIFICATE);
    let (_, certificate) = Stored::read(host, &paths.certificate).await?;
    let (_, key) = Stored::read(host, &paths.key).await?;
    let Some(Ok(leaf)) = certificate.parse(|pem| Certificate::parse("", pem)) else {
        return Ok(None);
    };
    let public = key.parse(|pem| keys::parse(pem).map(|pair| keys::public(&pair)));
    let fits = matches!(public, Some(Ok(public)) if public == leaf.public_key);
    Ok((fits && is_valid(&leaf, host, authority)).then_some(leaf))
}

/// The client certificate of the node's kubeconfig, if it is valid.
async fn in_kubeconfig(
    host: &dyn Host,
    authority: &Authority,
) -> ResourceResult<Option<Certificate>> {
    let Some(kubeconfig) = kubeconfig(host, NODE_KUBECONFIG).await? else {
        return Ok(None);
    };
    let embedded = match kubeconfig.client_certificate() {
        Ok(Some(pem)) => Content::Bytes(pem),
        // It names the file.
        Ok(None) => {
            let path = certificate_paths(NODE_CERTIFICATE).certificate;
            Stored::read(host, &path).await?.1
        }
        Err(_) => return Ok(None),
    };
    let leaf = embedded.parse(|pem| Certificate::parse("", pem));
    let leaf = leaf.and_then(Result::ok);
    Ok(leaf.filter(|leaf| is_valid(leaf, host, authority)))
}

fn is_valid(leaf: &Certificate, host: &dyn Host, authority: &Authority) -> bool {
    let mut trusted = authority.trusted();
    leaf.facts.is_valid_at(host.now()) && trusted.any(|its| leaf.is_signed_by(its))
}

/// The kubeconfig of this name, if it is one.
async fn kubeconfig(host: &dyn Host, name: &str) -> ResourceResult<Option<KubeconfigYaml>> {
    let (_, content) = Stored::read(host, &kubeconfig_path(name)).await?;
    let bytes = content.bytes();
    Ok(bytes.and_then(|bytes| serde_yaml::from_slice(bytes).ok()))
}

/// What the step `join_file` has written.
pub(super) async fn bootstrap(host: &dyn Host) -> ResourceResult<Option<KubeconfigYaml>> {
    kubeconfig(host, BOOTSTRAP_KUBECONFIG).await
}

/// The id of its token, and the token.
pub(super) fn token(bootstrap: &KubeconfigYaml) -> Option<(String, &str)> {
    let token = bootstrap.token()?;
    let (id, _) = token.split_once('.')?;
    Some((id.to_owned(), token))
}

/// Access with the node's certificate in its files, to the API server of the join file.
async fn access_with_files(
    host: &dyn Host,
    bootstrap: &KubeconfigYaml,
) -> ResourceResult<ClusterAccess> {
    let path = request_kubeconfig();
    let files = certificate_paths(NODE_CERTIFICATE);
    let text = bootstrap
        .with_files(&files.certificate, &files.key)
        .render();
    let text = text.map_err(|error| error.at(format!("write {}", path.display())))?;
    let (stored, content) = Stored::read(host, &path).await?;
    if content.bytes() != Some(text.as_bytes()) {
        // It is the state of this program, as the key of a request is.
        let mut not_part_of_the_step = Receipt::default();
        stored
            .put(host, text.as_bytes(), PRIVATE, &mut not_part_of_the_step)
            .await?;
    }
    Ok(ClusterAccess::with(&path))
}

/// Whether the join file with this token is there, and is not over.
pub(super) async fn is_usable(host: &dyn Host, token: &str) -> ResourceResult<bool> {
    let usable = usable_token(host).await?;
    Ok(usable.is_some_and(|its| its.expose() == token))
}

/// The token of the join file that is there; `None` if there is none that this host can open, or if it is over. The step `join_file` checks all else
/// about it. Cancel safe.
///
/// # Errors
/// The host cannot be read.
pub(super) async fn usable_token(host: &dyn Host) -> ResourceResult<Option<Token>> {
    let (_, sealed) = Stored::read(host, Path::new(JOIN_FILE)).await?;
    let (_, identity) = Stored::read(host, Path::new(IDENTITY)).await?;
    let (Some(sealed), Some(identity)) = (sealed.bytes(), identity.bytes()) else {
        return Ok(None);
    };
    let Ok(identity) = std::str::from_utf8(identity) else {
        return Ok(None);
    };
    let Ok(file) = JoinFile::open(sealed, identity) else {
        return Ok(None);
    };
    let is_over = file.check(&file.node, host.now()).is_err();
    Ok((!is_over).then_some(file.token))
}
