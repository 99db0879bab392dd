//! Bootstrap tokens of Kubernetes: `id.secret`. The id is public, and names the token's Secret and its user.
//! Source: <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#token-format>.

use std::fmt;

use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};

use super::error::JoinFileError;

const ID: usize = 6;
const SECRET: usize = 16;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    id: String,
    secret: String,
}

/// Leaves out the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// A random one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn random() -> Result<Self, JoinFileError> {
        Ok(Self {
            id: random(ID)?,
            secret: random(SECRET)?,
        })
    }

    /// The public part.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret part.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token, as a client sends it: a secret.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// Whether this can be the id of a token.
#[must_use]
pub fn is_token_id(text: &str) -> bool {
    has_form(text, ID)
}

fn has_form(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

impl TryFrom<String> for Token {
    type Error = JoinFileError;

    fn try_from(text: String) -> Result<Self, JoinFileError> {
        match text.split_once('.') {
            Some((id, secret)) if has_form(id, ID) && has_form(secret, SECRET) => Ok(Self {
                id: id.to_owned(),
                secret: secret.to_owned(),
            }),
            _ => Err(JoinFileError::Content(
                "its token does not have the form of a bootstrap token".to_owned(),
            )),
        }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.expose()
    }
}

/// So many random characters, each equally likely.
fn random(length: usize) -> Result<String, JoinFileError> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 32];
        rand::rngs::OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| JoinFileError::Random(error.to_string()))?;
        // 252 is the largest multiple of 36 below 256. Larger bytes would make some characters more likely.
        let usable = bytes.iter().filter(|byte| **byte < 252);
        let drawn = usable.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(drawn.take(length - text.len()));
    }
    Ok(text)
}
