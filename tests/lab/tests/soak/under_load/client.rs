//! A client whose credentials may be replaced while others use it.

use std::sync::{Arc, Mutex};

use lab_suites::{Credentials, HttpsClient};

use super::background::lock;

/// The client of a background task. Copies are the same client.
#[derive(Clone)]
pub(crate) struct SharedClient {
    client: Arc<Mutex<HttpsClient>>,
    /// How many connections it keeps to each server.
    kept: usize,
}

impl SharedClient {
    /// A client with these credentials, that keeps so many connections to each server.
    pub(crate) fn new((credentials, kept): (&Credentials, usize)) -> Self {
        let client = Arc::new(Mutex::new(HttpsClient::new(credentials, kept)));
        Self { client, kept }
    }

    /// The client as it is now. Requests that it has begun go on when the credentials are replaced.
    pub(crate) fn now(&self) -> HttpsClient {
        lock(&self.client).clone()
    }

    /// Makes new connections with these credentials from now on.
    pub(crate) fn renew(&self, credentials: &Credentials) {
        *lock(&self.client) = HttpsClient::new(credentials, self.kept);
    }
}
