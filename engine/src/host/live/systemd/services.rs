//! Units of the machine's systemd.

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use zbus::OwnedObjectPath;

use super::bus::{Properties, is_unknown_unit};
use super::jobs::JobResult;
use crate::host::live::LiveHost;
use crate::host::live::process::age::{began_after_boot, passed_since};
use crate::host::{CommandSpec, HostError, HostResult, Processes, Services, UnitState};
use crate::model::hex;

#[async_trait::async_trait]
impl Services for LiveHost {
    async fn unit(&self, name: &str) -> HostResult<UnitState> {
        let action = format!("ask systemd about {name}");
        let properties = self.unit_properties(&action, name, "Unit").await?;
        let active = text(&properties, "ActiveState");
        let is_active = active == "active" || active == "reloading";
        let since_boot = number(&properties, "ActiveEnterTimestampMonotonic")
            .filter(|_| is_active)
            .map(Duration::from_micros);
        Ok(UnitState {
            loaded: text(&properties, "LoadState") == "loaded",
            enabled: self.is_enabled(&action, name).await?,
            sub: text(&properties, "SubState"),
            invocation: hex(&bytes(&properties, "InvocationID")),
            active_since: number(&properties, "ActiveEnterTimestamp")
                .filter(|_| is_active)
                .map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
                .map(|said| match since_boot {
                    Some(since_boot) => began_after_boot(said, since_boot),
                    None => said,
                }),
            active_for: since_boot.and_then(passed_since),
            stale: flag(&properties, "NeedDaemonReload"),
            job: has_job(&properties),
            active,
        })
    }

    async fn main_process(&self, name: &str) -> HostResult<Option<u32>> {
        let action = format!("ask systemd about the main process of {name}");
        let properties = self.unit_properties(&action, name, "Service").await?;
        let pid = properties.get("MainPID");
        let pid = pid.and_then(|value| u32::try_from(value).ok());
        Ok(pid.filter(|pid| *pid > 0))
    }

    async fn continue_unit(&self, name: &str) -> HostResult<()> {
        let action = format!("continue the main process of {name}");
        let signal = (name, "main", Signal::SIGCONT as i32);
        self.bus.manager(&action, "KillUnit", &signal).await?;
        Ok(())
    }

    async fn start_unit(&self, name: &str) -> HostResult<()> {
        known("start", name, self.job("start", "StartUnit", name).await?)
    }

    async fn stop_unit(&self, name: &str) -> HostResult<()> {
        // An unknown unit does not run.
        self.job("stop", "StopUnit", name).await.map(|_| ())
    }

    async fn restart_unit(&self, name: &str) -> HostResult<()> {
        known(
            "restart",
            name,
            self.job("restart", "RestartUnit", name).await?,
        )
    }

    async fn reload_unit(&self, name: &str) -> HostResult<()> {
        known(
            "reload",
            name,
            self.job("reload", "ReloadOrRestartUnit", name).await?,
        )
    }

    async fn set_unit_enabled(&self, name: &str, enabled: bool) -> HostResult<()> {
        if enabled {
            let action = format!("enable {name}");
            // The change outlasts the next boot (`false`) and replaces links that point elsewhere (`true`).
            let answer = self
                .bus
                .manager(&action, "EnableUnitFiles", &(vec![name], false, true))
                .await?;
            let (installable, _): (bool, Vec<(String, String, String)>) = answer
                .body()
                .deserialize()
                .map_err(|error| HostError::service(&*action, error))?;
            if !installable {
                let why = "its unit file has no [Install] section that says when to start it";
                return Err(HostError::service(action, why));
            }
        } else {
            let action = format!("disable {name}");
            match self
                .bus
                .ask(&action, "DisableUnitFiles", &(vec![name], false))
                .await?
            {
                Err(error) if !is_unknown_unit(&error) => {
                    return Err(HostError::service(action, error));
                }
                _ => {}
            }
        }
        self.reload_units().await
    }

    async fn reset_failed_unit(&self, name: &str) -> HostResult<()> {
        let action = format!("reset the failure of {name}");
        match self.bus.ask(&action, "ResetFailedUnit", &name).await? {
            Err(error) if !is_unknown_unit(&error) => Err(HostError::service(action, error)),
            _ => Ok(()),
        }
    }

    async fn reload_units(&self) -> HostResult<()> {
        self.bus
            .manager("load all unit files again", "Reload", &())
            .await?;
        Ok(())
    }

    async fn unit_log(&self, name: &str, lines: usize) -> HostResult<String> {
        let command = CommandSpec::new([
            "journalctl".to_owned(),
            format!("--unit={name}"),
            format!("--lines={lines}"),
            "--no-pager".to_owned(),
            "--quiet".to_owned(),
            "--output=cat".to_owned(),
        ])
        .timeout(Duration::from_secs(10));
        Ok(self.run_ok(&command).await?.stdout)
    }
}

impl LiveHost {
    /// The unit's own verdict on its last run, for the kinds of unit that have one.
    pub(in crate::host::live) async fn unit_result(&self, name: &str) -> Option<String> {
        let interface = match name.rsplit_once('.')?.1 {
            "service" => "Service",
            "socket" => "Socket",
            "timer" => "Timer",
            "mount" => "Mount",
            _ => return None,
        };
        let properties = self
            .unit_properties("ask systemd for a result", name, interface)
            .await;
        Some(text(&properties.ok()?, "Result")).filter(|result| !result.is_empty())
    }

    async fn unit_properties(
        &self,
        action: &str,
        name: &str,
        interface: &str,
    ) -> HostResult<Properties> {
        // Unlike GetUnit, LoadUnit also answers for a unit that does not exist.
        let answer = self.bus.manager(action, "LoadUnit", &name).await?;
        let path: OwnedObjectPath = answer
            .body()
            .deserialize()
            .map_err(|error| HostError::service(action, error))?;
        self.bus.properties(action, path.as_str(), interface).await
    }

    /// Asks for the state of the unit file: the unit's own property is as old as the last daemon-reload.
    async fn is_enabled(&self, action: &str, name: &str) -> HostResult<bool> {
        match self.bus.ask(action, "GetUnitFileState", &name).await? {
            Ok(answer) => answer
                .body()
                .deserialize::<String>()
                .map(|state| state == "enabled")
                .map_err(|error| HostError::service(action, error)),
            Err(error) if is_unknown_unit(&error) => Ok(false),
            Err(error) => Err(HostError::service(action, error)),
        }
    }
}

fn known(verb: &str, name: &str, result: JobResult) -> HostResult<()> {
    match result {
        JobResult::Done => Ok(()),
        JobResult::Unknown => Err(HostError::Missing {
            what: format!("unit {name} to {verb} it (is its unit file written and loaded?)"),
        }),
    }
}

fn text(properties: &Properties, key: &str) -> String {
    let value = properties
        .get(key)
        .and_then(|value| <&str>::try_from(value).ok());
    value.unwrap_or_default().to_owned()
}

fn number(properties: &Properties, key: &str) -> Option<u64> {
    u64::try_from(properties.get(key)?)
        .ok()
        .filter(|value| *value > 0)
}

fn flag(properties: &Properties, key: &str) -> bool {
    properties
        .get(key)
        .is_some_and(|value| bool::try_from(value).unwrap_or(false))
}

/// Whether a unit has a job. The property is the job's number and object; the number is 0 if there is none.
fn has_job(properties: &Properties) -> bool {
    let job = properties
        .get("Job")
        .and_then(|value| value.try_clone().ok());
    job.and_then(|value| <(u32, OwnedObjectPath)>::try_from(value).ok())
        .is_some_and(|(number, _)| number != 0)
}

fn bytes(properties: &Properties, key: &str) -> Vec<u8> {
    let value = properties.get(key).and_then(|value| value.try_clone().ok());
    value
        .and_then(|value| Vec::try_from(value).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use zbus::{ObjectPath, OwnedVariant, Structure, Variant};

    use super::*;

    #[test]
    fn a_job_has_a_number() {
        let properties = |number: u32, path: &'static str| {
            let path = ObjectPath::try_from(path).expect("a path");
            let job = Variant::from(Structure::from((number, path)));
            Properties::from([(
                "Job".to_owned(),
                OwnedVariant::try_from(job).expect("a value"),
            )])
        };
        assert!(has_job(&properties(
            1043,
            "/org/freedesktop/systemd1/job/1043"
        )));
        assert!(!has_job(&properties(0, "/")));
        assert!(!has_job(&Properties::default()));
    }
}
