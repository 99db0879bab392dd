//! Whole lists of objects.

use kube::api::{Api, ListParams};

/// A list comes in pages of so many objects.
const PAGE: u32 = 500;
/// More objects than this are refused: Kubernetes has 5,000 nodes at most.
const MOST: usize = 100_000;

/// A whole list, page by page.
pub(super) async fn all<K>(api: Api<K>, params: ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(_) if objects.len() >= MOST => {
                return Err(kube::Error::Service(
                    format!("there are more than {MOST} objects").into(),
                ));
            }
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
