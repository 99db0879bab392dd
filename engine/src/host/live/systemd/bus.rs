//! The connection to systemd over the system bus.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Mutex;
use zbus::message::{Message, Type};
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedVariant, connection};

use crate::host::{HostError, HostResult};

const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// Deadline of one method call. Loading all unit files again is the slow one.
const CALL: Duration = Duration::from_secs(60);

/// Properties of one interface of an object.
pub(in crate::host::live) type Properties = HashMap<String, OwnedVariant>;

/// The connection to the bus, once the bus has answered. It is made again after it was lost.
#[derive(Debug, Default)]
pub(in crate::host::live) struct Bus {
    connection: Mutex<Option<Connection>>,
}

impl Bus {
    /// Calls a method of systemd's manager. `action` completes "failed to …".
    pub(in crate::host::live) async fn manager<B>(
        &self,
        action: &str,
        method: &str,
        body: &B,
    ) -> HostResult<Message>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        self.ask(action, method, body)
            .await?
            .map_err(|error| HostError::service(action, error))
    }

    /// The same; the inner error is systemd's answer.
    pub(in crate::host::live) async fn ask<B>(
        &self,
        action: &str,
        method: &str,
        body: &B,
    ) -> HostResult<Result<Message, zbus::Error>>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        let connection = self.connection().await?;
        let answer = connection
            .call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body)
            .await;
        match answer {
            Err(error @ zbus::Error::InputOutput(_)) => {
                *self.connection.lock().await = None;
                Err(HostError::service(action, error))
            }
            answer => Ok(answer),
        }
    }

    /// All properties that a systemd object has in one interface, given without its common prefix.
    pub(in crate::host::live) async fn properties(
        &self,
        action: &str,
        path: &str,
        interface: &str,
    ) -> HostResult<Properties> {
        let failed = |error| HostError::service(action, error);
        let connection = self.connection().await?;
        let properties = Some("org.freedesktop.DBus.Properties");
        let wanted = format!("{SYSTEMD}.{interface}");
        let answer = connection
            .call_method(Some(SYSTEMD), path, properties, "GetAll", &wanted)
            .await
            .map_err(failed)?;
        answer.body().deserialize().map_err(failed)
    }

    /// Signals about jobs that end from now on. systemd sends them to subscribers only.
    pub(in crate::host::live) async fn job_ends(&self, action: &str) -> HostResult<MessageStream> {
        // An error says that this connection has subscribed before.
        let _ = self.ask(action, "Subscribe", &()).await?;
        let connection = self.connection().await?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SYSTEMD)
            .path(MANAGER_PATH)
            .interface(MANAGER)
            .member("JobRemoved")
            .build();
        let stream = match rule {
            Ok(rule) => MessageStream::for_match_rule(rule, &connection, None).await,
            Err(error) => Err(error),
        };
        stream.map_err(|error| HostError::service(action, error))
    }

    async fn connection(&self) -> HostResult<Connection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = tokio::time::timeout(
            CALL,
            connection::Builder::address(ADDRESS)
                .method_timeout(CALL)
                .build(),
        )
        .await
        .map_err(|_| HostError::Deadline {
            action: format!("connect to the system bus at {ADDRESS}"),
            after: CALL,
        })?
        .map_err(|error| {
            HostError::service(
                format!("connect to the system bus at {ADDRESS} (does dbus.socket run?)"),
                error,
            )
        })?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

/// Whether systemd's answer is that it knows no such unit.
pub(in crate::host::live) fn is_unknown_unit(error: &zbus::Error) -> bool {
    let unknown = |name: &str| {
        name == "org.freedesktop.systemd1.NoSuchUnit"
            || name == "org.freedesktop.DBus.Error.FileNotFound"
    };
    match error {
        zbus::Error::MethodError(name, ..) => unknown(name.as_str()),
        zbus::Error::FDO(error) => matches!(**error, zbus::fdo::Error::FileNotFound(_)),
        _ => false,
    }
}
