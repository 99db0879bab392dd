//! HAProxy on port 443: it ends TLS, asks for the certificate of the host, and passes each connection on to the service of its server name.
//!
//! [`configuration`] writes its configuration from the table of services, [`files`] what HAProxy reads besides, [`master`] speaks with the running
//! HAProxy, [`revocation`] ends what a revoked certificate has open, and [`reconcile`] does all of it again and again.
//!
//! Not here: HAProxy's start, which is its own unit's.

pub mod configuration;
pub mod files;
pub mod master;
pub mod reconcile;
pub mod revocation;
