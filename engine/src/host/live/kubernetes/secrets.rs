//! Every Secret of the cluster, written again as it is.
//!
//! The API server encrypts what it stores with its first key. If another key has encrypted an object, the server stores the object again
//! even when an identical one replaces it. So reading and writing all Secrets moves the cluster to the new key.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};

use super::kubeconfig::status;
use crate::host::live::LiveHost;
use crate::host::{ClusterAccess, HostError, HostResult};

/// Secrets per page. A Secret has at most one megabyte.
const PAGE: u32 = 25;
/// Limit on pages. A cluster of this size holds fewer Secrets, so a list without an end is noticed.
const PAGES: usize = 40_000;

impl LiveHost {
    /// Writes every Secret again; returns their number.
    pub(in crate::host::live) async fn store_secrets_anew(
        &self,
        access: &ClusterAccess,
    ) -> HostResult<u64> {
        let kind = ApiResource::erase::<Secret>(&());
        let (mut written, mut next) = (0, None::<String>);
        for _ in 0..PAGES {
            let mut params = ListParams::default().limit(PAGE);
            if let Some(token) = &next {
                params = params.continue_token(token);
            }
            let page = self
                .clusters
                .call(access, "list Secrets", |client| async move {
                    Api::<DynamicObject>::all_with(client, &ApiResource::erase::<Secret>(&()))
                        .list(&params)
                        .await
                })
                .await?;
            for secret in &page.items {
                self.store_anew(access, &kind, secret).await?;
                written += 1;
            }
            next = page.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(written);
            }
        }
        Err(HostError::service(
            "list Secrets",
            format!("the list has no end after {written}"),
        ))
    }

    async fn store_anew(
        &self,
        access: &ClusterAccess,
        kind: &ApiResource,
        secret: &DynamicObject,
    ) -> HostResult<()> {
        let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
        let action = format!("write Secret {namespace}/{name} again");
        self.clusters
            .call(access, action, |client| async move {
                let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, kind);
                match api.replace(&name, &PostParams::default(), secret).await {
                    // 409: it was written meanwhile, with the new key. 404: it is gone.
                    Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
                    answer => answer.map(drop),
                }
            })
            .await
    }
}
