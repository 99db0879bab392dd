//! `pf9-comms enroll`: this host gets its certificate from the plane.
//!
//! [`pinned`] knows the plane by the fingerprint of its root, [`ask`] sends the request, and [`install`] checks the answer and puts it in place,
//! in `directories` that the user of pf9-comms can enter.
//! The key is made here and stays here.
//!
//! A request can be repeated: a key that got no answer is kept for the next one, and the plane takes the token again for the same key. After a crash at any
//! time, the identity in use is whole, and the next enrolment removes what the crash has left.

pub mod ask;
mod directories;
pub mod install;
pub mod pinned;

#[cfg(test)]
mod crashes;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use daemon::files::ABANDONED;
use nix::unistd::User;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::DnsName;
use wire::enrolment::{Request, Response, Secret, VERSION, is_host_name};

use crate::config::{Configuration, IdentityFiles, Plane};
use crate::path::proxy::{Proxies, ProxySettings};
use install::Place;
use pinned::Fingerprint;

/// Largest file with a token, in bytes.
const LIMIT: u64 = 4096;

/// What an operator says.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The management plane.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = plane)]
    plane: Plane,
    /// A file with the token that `planectl token create` has made. Only its owner may read it.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// SHA-256 of the plane's root, as `planectl fingerprint` prints it.
    #[arg(long, value_name = "HEX")]
    root_fingerprint: Fingerprint,
    /// The name of this host, if it is not the one of the kernel.
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// Where the identity is put.
    #[arg(long, value_name = "DIRECTORY", default_value = directories::USUAL)]
    directory: PathBuf,
    /// The user that pf9-comms runs as, who gets the key.
    #[arg(long, value_name = "USER", default_value = "pf9")]
    user: String,
}

/// A name without the dot that it may end with: it is the same name (RFC 1034, section 3.1), and TLS leaves the dot out (RFC 6066, section 3).
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn plane(text: &str) -> Result<Plane, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse().map_err(|_| format!("`{port}` is no port"))?,
        ),
        None => (text, 443),
    };
    let host = without_dot(host).to_ascii_lowercase();
    let is_name = DnsName::try_from(host.as_str()).is_ok() && !host.ends_with('.');
    if !is_name || !host.contains('.') || port == 0 {
        return Err("it needs a DNS name with a dot: services are reached as NAME.HOST".to_owned());
    }
    Ok(Plane { host, port })
}

/// Enrols this host, and returns what to tell the operator.
///
/// # Errors
/// Something in the arguments or on this host cannot be used, the plane cannot be reached or refuses, or its answer is wrong. What was in place stays.
pub async fn run(arguments: &Arguments, configuration: &Path) -> Result<String> {
    let host_name = host_name(arguments.host_name.as_deref())?;
    let token = token(&arguments.token_file)?;
    let user = User::from_name(&arguments.user)
        .with_context(|| format!("look up user `{}`", arguments.user))?
        .with_context(|| {
            format!(
                "find user `{}`; the package of pf9-comms makes it",
                arguments.user
            )
        })?;
    let present = present(configuration, &arguments.plane, &arguments.directory)?;
    let proxies = Proxies::new(&present.unwrap_or_default()).context("use `proxy`")?;
    let place = Place::new(&arguments.directory, user)?;
    if let Some(opened) = place.opened() {
        // At once: what follows may fail.
        daemon::command::print(&format!(
            "Set the mode of {} to 0755: it was empty and closed to the user of pf9-comms, as an enrolment that was killed leaves it.\n",
            opened.display()
        ))?;
    }
    let key = place.pending_key()?;
    let request = Request {
        version: VERSION,
        token,
        host_name: host_name.clone(),
        certificate_request: certificate_request(&key)?,
    };
    let response = ask::ask(
        &arguments.plane,
        &proxies,
        arguments.root_fingerprint,
        &request,
    )
    .await?;
    let (wrote, swept) = complete(place, &key, &response, arguments, configuration, &proxies)?;
    let warning = match swept {
        Ok(()) => String::new(),
        Err(error) => format!("Warning: could not {error:#}.\n"),
    };
    let next = match wrote {
        Some(wrote) => format!("{wrote} Start it: systemctl enable --now pf9-comms"),
        None => {
            "A pf9-comms that runs takes the new certificate by itself; open connections go on."
                .to_owned()
        }
    };
    Ok(format!(
        "Enrolled {host_name} as {} at {}.\n{warning}{next}\n",
        response.host_id, arguments.plane.host
    ))
}

/// Puts the answer of the plane in place. Returns what [`write_configuration`] returns, and why temporary files beside the configuration could not be removed: they have no secrets, and
/// the host is enrolled.
fn complete(
    place: Place,
    key: &KeyPair,
    response: &Response,
    arguments: &Arguments,
    configuration: &Path,
    proxies: &Proxies,
) -> Result<(Option<String>, Result<()>)> {
    place.install(key, response, arguments.root_fingerprint, SystemTime::now())?;
    let wrote = write_configuration(configuration, arguments, &place, proxies)?;
    let beside = configuration.parent().filter(|its| its.is_dir());
    // The directory is locked, so no other enrolment writes there. Other programs may be writing beside the configuration.
    let abandoned = match beside == Some(arguments.directory.as_path()) {
        true => ABANDONED,
        false => Duration::ZERO,
    };
    // The pending key last: after a crash before, the command can be repeated.
    place.finish(abandoned)?;
    let swept = beside.map_or(Ok(()), |its| daemon::files::sweep(its, ABANDONED));
    Ok((wrote, swept))
}

/// The settings of the proxy in the configuration that is there; `None` without one.
fn present(path: &Path, plane: &Plane, directory: &Path) -> Result<Option<ProxySettings>> {
    let found = path
        .try_exists()
        .with_context(|| format!("look for {}", path.display()))?;
    if !found {
        if path.parent().is_some_and(Path::is_dir) {
            daemon::files::can_replace(path)?;
        }
        return Ok(None);
    }
    let configuration: Configuration =
        daemon::config::read(path).context("use the configuration that is there")?;
    // The argument is in lower case and without a dot at its end, the configuration need not be, and DNS ignores the case (RFC 4343).
    let is_same = |its: &Plane| {
        its.port == plane.port && without_dot(&its.host).eq_ignore_ascii_case(&plane.host)
    };
    if !configuration.plane.as_ref().is_some_and(is_same) {
        bail!(
            "enrol this host at {}: {} has another plane; change it first",
            plane.host,
            path.display()
        );
    }
    let wanted = IdentityFiles::below(&directory.join(install::CURRENT));
    if configuration.identity != wanted {
        bail!(
            "put the identity into {}: `identity` of {} has other files; it needs {}, {} and {}, or --directory another place",
            directory.display(),
            path.display(),
            wanted.certificate.display(),
            wanted.key.display(),
            wanted.roots.display()
        );
    }
    Ok(Some(configuration.proxy))
}

/// Writes a configuration if there is none, and returns what it wrote for the operator to read; `None` if there is one.
fn write_configuration(
    path: &Path,
    arguments: &Arguments,
    place: &Place,
    proxies: &Proxies,
) -> Result<Option<String>> {
    if path
        .try_exists()
        .with_context(|| format!("look for {}", path.display()))?
    {
        return Ok(None);
    }
    let mut wrote = format!("Wrote {}.", path.display());
    let Plane { host, port } = &arguments.plane;
    let mut text = format!(
        "# Written by `pf9-comms enroll`. What may be here: docs/comms.md.\nplane: {{host: {host}, port: {port}}}\n"
    );
    // JSON is YAML, with all signs that need it escaped.
    if arguments.directory != Path::new(directories::USUAL) {
        let its = IdentityFiles::below(&arguments.directory.join(install::CURRENT));
        let files = serde_json::json!({
            "certificate": its.certificate, "key": its.key, "roots": its.roots,
        });
        text += &format!("identity: {files}\n");
    }
    // The daemon reads the file of earlier versions itself, with the password in it. It has not the environment of this command.
    let is_read = proxies
        .earlier_file()
        .is_some_and(|file| place.user_may_read(file));
    if let Some(proxy) = proxies.to(host, *port).filter(|_| !is_read) {
        let mut settings = serde_json::json!({ "url": format!("http://{proxy}") });
        if let Some(credentials) = &proxy.credentials {
            // Other users may read the configuration.
            let file = place.write_credentials(credentials)?;
            wrote += &format!(
                " Wrote {} with the user and the password of the proxy {proxy}.",
                file.display()
            );
            settings["credentials"] = serde_json::json!(file);
        }
        text += &format!("proxy: {settings}\n");
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
    }
    daemon::files::replace(path, text.as_bytes(), 0o644)?;
    Ok(Some(wrote))
}

fn host_name(named: Option<&str>) -> Result<String> {
    let name = match named {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname()
            .context("ask for the name of this host")?
            .to_string_lossy()
            .into_owned(),
    };
    let name = name.to_ascii_lowercase();
    if !is_host_name(&name) {
        bail!(
            "use the name of this host: `{name}` is none of letters, digits, hyphens and dots; name it with --host-name"
        );
    }
    Ok(name)
}

fn token(path: &Path) -> Result<Secret> {
    let reading = || format!("read the token in {}", path.display());
    let found = daemon::files::read_private(path, LIMIT)
        .context("read the token")?
        .with_context(|| format!("{}: there is no such file", reading()))?;
    let text = String::from_utf8(found).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("{}: it has none", reading());
    }
    Ok(Secret(text.to_owned()))
}

/// A certificate request without a name: the plane decides what is in the certificate.
fn certificate_request(key: &KeyPair) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(key)
        .context("make a certificate request")?;
    request.pem().context("make a certificate request")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bounds::{content, quickly};
    use proptest::prelude::*;
    use wire::enrolment::{LARGEST_REQUEST, LARGEST_RESPONSE, Refusal};

    use super::*;

    #[test]
    fn a_plane_has_a_dns_name() {
        let found = plane("Plane.Test:8443").expect("it is right");
        assert_eq!((found.host.as_str(), found.port), ("plane.test", 8443));
        assert_eq!(plane("plane.test.:8443").expect("the same"), found);
        for wrong in [
            "plane",
            "plane.",
            "plane.test..",
            "plane.test:0",
            "plane.test:x",
            "10.0.0.1:443:1",
            "a b.test",
            "",
        ] {
            plane(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_token_is_read_from_a_file_of_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let said = |text: &str, mode| {
            std::fs::write(&path, text).expect("it is written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .expect("its mode");
            token(&path).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(said("abc\n", 0o600), Ok(Secret("abc".to_owned())));
        assert!(
            said("abc\n", 0o644)
                .expect_err("others read it")
                .contains("its mode is 0644")
        );
        for wrong in ["", "\n", "a b", "a\nb"] {
            assert!(
                said(wrong, 0o600)
                    .expect_err("it has none")
                    .contains("it has none")
            );
        }
        assert!(said(&"a".repeat(5000), 0o600).is_err());
    }

    #[test]
    fn a_configuration_of_another_plane_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("comms.yaml");
        let wanted = Plane {
            host: "plane.test".to_owned(),
            port: 443,
        };
        let place = Path::new("/etc/pf9/comms");
        assert!(
            present(&path, &wanted, place)
                .expect("there is none")
                .is_none()
        );
        std::fs::write(&path, "plane: {host: other.test}\n").expect("it is written");
        let error = present(&path, &wanted, place).expect_err("another plane");
        assert!(error.to_string().contains("has another plane"), "{error:#}");
        std::fs::write(&path, "plane: {host: plane.test}\nproxy: {url: none}\n")
            .expect("it is written");
        let found = present(&path, &wanted, place)
            .expect("the same")
            .expect("it is there");
        assert_eq!(found.url.as_deref(), Some("none"));
        for same in ["Plane.Test", "plane.test."] {
            std::fs::write(&path, format!("plane: {{host: {same}}}\n")).expect("it is written");
            let found = present(&path, &wanted, place).expect(same);
            assert!(found.is_some());
        }
        let elsewhere =
            present(&path, &wanted, Path::new("/elsewhere")).expect_err("another place");
        assert!(
            elsewhere.to_string().contains("has other files"),
            "{elsewhere:#}"
        );
    }

    /// The daemon reaches the plane as the command did, without the environment of the command.
    #[test]
    fn a_configuration_that_is_written_has_the_way_to_the_plane_of_the_command() {
        const SECRET: &str = "hidden-word";
        let with_password = format!("http://me:{SECRET}@[2001:db8::1]:3128");
        let file = format!(
            r#"{{"http_proxy": {{"host": "earlier", "port": 3128, "user": "me", "pass": "{SECRET}"}}}}"#
        );
        // The variable, the mode of the file of earlier versions, and whether a proxy and its credentials are written.
        for (variable, mode, has_proxy, has_credentials) in [
            (None, None, false, false),
            (Some("http://environment:1"), None, true, false),
            (Some(with_password.as_str()), None, true, true),
            (Some("http://environment:1"), Some(0o600), false, false),
            // The user of pf9-comms may not read it.
            (None, Some(0o000), true, true),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let at = |name: &str| directory.path().join(name);
            let (path, earlier) = (at("comms.yaml"), at("earlier.json"));
            let variables = |names: &[&str]| {
                let its = variable.filter(|_| names[0] == "HTTPS_PROXY");
                its.map(str::to_owned)
            };
            if mode.is_some() {
                daemon::files::replace(&earlier, file.as_bytes(), 0o600).expect("it is written");
            }
            let before = Proxies::from(&ProxySettings::default(), &earlier, variables);
            let before = before.expect("they are right");
            if let Some(mode) = mode {
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(&earlier, mode).expect("its mode");
            }
            let arguments = Arguments {
                plane: plane("plane.test").expect("it is right"),
                token_file: PathBuf::new(),
                root_fingerprint: "00".repeat(32).parse().expect("a fingerprint"),
                host_name: None,
                directory: at("comms"),
                user: String::new(),
            };
            let user = User::from_uid(nix::unistd::geteuid());
            let user = user.expect("users").expect("this one");
            let place = Place::new(&arguments.directory, user).expect("it is made");
            let write = || {
                let wrote = write_configuration(&path, &arguments, &place, &before);
                wrote.expect("it can be written")
            };
            let wrote = write().expect("there was none");
            let text = std::fs::read_to_string(&path).expect("it is there");
            assert_eq!(text.contains("proxy:"), has_proxy, "{text}");
            assert!(!text.contains(SECRET) && !wrote.contains(SECRET), "{wrote}");
            let credentials = at("comms/proxy.credentials");
            assert_eq!(credentials.exists(), has_credentials, "{text}");
            let named = wrote.contains(&credentials.display().to_string());
            assert_eq!(named, has_credentials, "{wrote}");
            let written: Configuration = daemon::config::read(&path).expect("it is right");
            assert_eq!(written.identity, IdentityFiles::below(&at("comms/current")));
            let after = Proxies::from(&written.proxy, &earlier, |_| None).expect("they are right");
            assert_eq!(after.to("plane.test", 443), before.to("plane.test", 443));
            assert_eq!(write(), None, "one that is there stays");
        }
    }

    const JSON: &[&str] = &[
        "{",
        "}",
        "[",
        "\"version\":1",
        "\"token\":",
        "\"host_name\":",
        "\"host_id\":",
        "\"certificate\":",
        "\"message_queue\":",
        "\"error\":",
        "\"next\":",
        "\"",
        "\\n",
        "\\u0041",
        ",",
        "null",
        " ",
        "1e999",
        "-",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_file_with_a_token_is_read_or_refused(
            content in content(LIMIT as usize, &["token", "\n", " ", "\t", "ä"]),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("token");
            std::fs::write(&path, &content).expect("it is written");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("its mode");
            match quickly(|| token(&path)) {
                Ok(Secret(text)) => {
                    prop_assert!(content.len() as u64 <= LIMIT);
                    prop_assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
                }
                Err(error) => {
                    let said = format!("{error:#}");
                    prop_assert!(said.contains(&path.display().to_string()), "{}", said);
                }
            }
        }

        #[test]
        fn any_message_of_an_enrolment_is_read_or_refused(
            request in content(LARGEST_REQUEST, JSON),
            response in content(LARGEST_RESPONSE, JSON),
        ) {
            for text in [request, response] {
                let _ = quickly(|| serde_json::from_slice::<Request>(&text));
                let _ = quickly(|| serde_json::from_slice::<Response>(&text));
                let _ = quickly(|| serde_json::from_slice::<Refusal>(&text));
            }
        }
    }
}
