//! Whole lists of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;

/// A list comes in pages of so many objects.
const PAGE: u32 = 500;
/// More objects than this are refused: Kubernetes has 5,000 nodes at most.
const MOST: usize = 100_000;

/// A whole list, page by page.
pub(super) async fn all<K>(api: Api<K>, params: ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    all_as(api, params, |object| object).await
}

/// What `convert` makes of each object of a list. Only one page of whole objects is in memory at a time: the nodes of a large cluster, with
/// the names of their images, take more than a hundred megabytes.
pub(super) async fn all_as<K, T>(
    api: Api<K>,
    params: ListParams,
    convert: impl Fn(K) -> T,
) -> Result<Vec<T>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items.into_iter().map(&convert));
        match next_page(params, page.metadata, objects.len())? {
            Some(next) => params = next,
            None => return Ok(objects),
        }
    }
}

/// What `convert` makes of the metadata of each object of a list: the rest is not sent.
pub(super) async fn all_metadata_as<K, T>(
    api: Api<K>,
    params: ListParams,
    convert: impl Fn(PartialObjectMeta<K>) -> T,
) -> Result<Vec<T>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list_metadata(&params).await?;
        objects.extend(page.items.into_iter().map(&convert));
        match next_page(params, page.metadata, objects.len())? {
            Some(next) => params = next,
            None => return Ok(objects),
        }
    }
}

/// The parameters for the page after the one with this `metadata`; `None` if that was the last one.
fn next_page(
    params: ListParams,
    metadata: ListMeta,
    objects: usize,
) -> Result<Option<ListParams>, kube::Error> {
    match metadata.continue_.filter(|token| !token.is_empty()) {
        Some(_) if objects >= MOST => Err(kube::Error::Service(
            format!("there are more than {MOST} objects").into(),
        )),
        Some(token) => Ok(Some(params.continue_token(&token))),
        None => Ok(None),
    }
}
