//! The token of a node as a Secret, which the API server reads.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{JOINING, NAMESPACE};
use crate::host::Taint;
use crate::kubernetes::join_file::Token;

/// The annotation of a token's Secret: the node that it is for.
pub(super) const NODE: &str = "nodelet.pf9.io/node";
/// The annotation of a token's Secret: its node may take the place of a node of that name which is Ready.
const REPLACES: &str = "nodelet.pf9.io/replaces";
/// The type of a token's Secret.
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";

/// The token of a node, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// The node that it is for.
    pub node: String,
    /// When it ends. A token without a readable expiry has ended.
    pub expires: SystemTime,
    /// Whether the node may take the place of a node of its name which is Ready.
    pub replaces: bool,
}

/// A token that is to be created.
#[derive(Debug)]
pub struct NewToken<'a> {
    /// The token.
    pub token: &'a Token,
    /// The time now.
    pub now: SystemTime,
    /// When it ends.
    pub expires: SystemTime,
    /// Whether the node may take the place of a node of its name which is Ready.
    pub replaces: bool,
    /// The taints that the record of its node names; `None` for those of the earlier record.
    pub taints: Option<&'a [Taint]>,
}

/// The name of the Secret of a token.
pub(super) fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// The type belongs to the key: the API server refuses a comparison that would change it.
pub(super) fn secret_key(id: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": TOKEN_TYPE,
        "metadata": {"name": secret_name(id), "namespace": NAMESPACE},
    })
}

pub(super) fn secret_object(node: &str, new: &NewToken<'_>) -> Value {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let mut object = secret_key(new.token.id());
    object["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "nodelet"});
    object["metadata"]["annotations"] = json!({NODE: node, REPLACES: new.replaces.to_string()});
    object["data"] = json!({
        "token-id": encoded(new.token.id()),
        "token-secret": encoded(new.token.secret()),
        "expiration": encoded(&humantime::format_rfc3339_seconds(new.expires).to_string()),
        "usage-bootstrap-authentication": encoded("true"),
        "auth-extra-groups": encoded(JOINING),
    });
    object
}

pub(super) fn read_token(id: &str, object: &Value) -> Option<TokenRecord> {
    let annotation = |name: &str| object["metadata"]["annotations"][name].as_str();
    let node = annotation(NODE)?.to_owned();
    let expiration = object["data"]["expiration"].as_str()?;
    let expiration = BASE64_STANDARD.decode(expiration).ok()?;
    let expires = std::str::from_utf8(&expiration).ok();
    let expires = expires.and_then(|text| humantime::parse_rfc3339(text.trim()).ok());
    Some(TokenRecord {
        id: id.to_owned(),
        node,
        expires: expires.unwrap_or(SystemTime::UNIX_EPOCH),
        replaces: annotation(REPLACES) == Some("true"),
    })
}
