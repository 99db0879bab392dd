//! Puts an identity in place: all files at once, or none.
//!
//! Each identity has a directory of its own, and the link [`CURRENT`] names the one in use. So the key and the certificate always belong together, also
//! after a power cut.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, chown};
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use wire::enrolment::{MessageQueue, Response};

use super::directories;
use super::pinned::Fingerprint;
use crate::config::IdentityFiles;
use crate::identity::{self, Identity};
use crate::path::proxy::Credentials;

/// The link to the identity in use.
pub const CURRENT: &str = "current";
/// What daemons need to use the message queue. Only root reads it, and systemd hands it to them (`LoadCredential=`).
pub const MESSAGE_QUEUE: &str = "message-queue.json";
/// What the names of the directories begin with.
const PREFIX: &str = "identity-";
/// A key for which there is no certificate yet.
const PENDING: &str = "pending.key";
/// The user of a proxy and its password.
const CREDENTIALS: &str = "proxy.credentials";
/// Locked by the process that enrols this host.
const LOCK: &str = ".lock";
/// Largest key that is read, in bytes.
const LIMIT: u64 = 16 * 1024;

/// The directory with identities. No other process enrols this host as long as this value lives.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    user: User,
    opened: Option<PathBuf>,
    /// Locked.
    _lock: File,
}

impl Place {
    /// Makes the directory if it is not there, and locks it. The key will belong to `user`.
    ///
    /// # Errors
    /// It cannot be made, another process enrols this host, or a directory has the name of the link. Then no token is used.
    pub fn new(directory: &Path, user: User) -> Result<Self> {
        let opened = directories::make(directory, Path::new(directories::USUAL), &user)
            .with_context(|| format!("make the directory {}", directory.display()))?;
        // Only its owner can lock a file that only its owner can open.
        let path = directory.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "lock {}: another `pf9-comms enroll` runs; wait for its end",
                path.display()
            );
        }
        let current = directory.join(CURRENT);
        if current.symlink_metadata().is_ok_and(|its| its.is_dir()) {
            let path = current.display();
            bail!(
                "make {path} a link to the new identity: it is a directory; move it away: `mv {path} {path}.before`"
            );
        }
        Ok(Self {
            directory: directory.to_owned(),
            user,
            opened,
            _lock: lock,
        })
    }

    /// The directory that was there and has got the mode 0755, if an enrolment that was killed had left one closed.
    #[must_use]
    pub fn opened(&self) -> Option<&Path> {
        self.opened.as_deref()
    }

    /// The key for which a certificate is to be asked for: the one of an attempt before that got no answer, or a new one.
    ///
    /// # Errors
    /// It cannot be read or written, or other users may read the one that is there.
    pub fn pending_key(&self) -> Result<KeyPair> {
        let path = self.directory.join(PENDING);
        // Not replaced without a word: the plane may know the key already, and an operator has to learn that others may have it.
        let found = daemon::files::read_private(&path, LIMIT).with_context(|| {
            format!(
                "use the key of an earlier attempt (to replace it, remove {} and enrol again)",
                path.display()
            )
        })?;
        if let Some(found) = found {
            // A damaged one is replaced: nothing has used it.
            if let Some(key) = String::from_utf8(found)
                .ok()
                .and_then(|its| KeyPair::from_pem(&its).ok())
            {
                return Ok(key);
            }
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make a key")?;
        daemon::files::replace(&path, key.serialize_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    /// Checks what the plane has answered, and puts it in place. The pending key stays.
    ///
    /// # Errors
    /// It is not what this host asked for, or cannot be written. Then the identity before stays in use.
    pub fn install(
        &self,
        key: &KeyPair,
        response: &Response,
        root: Fingerprint,
        now: SystemTime,
    ) -> Result<()> {
        check(response, root, now).context("use the answer of the plane")?;
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&self.directory)
            .with_context(|| format!("make a directory in {}", self.directory.display()))?;
        directories::open_to_all(made.path())?;
        self.write(made.path(), key, response)?;
        let its = IdentityFiles::below(made.path());
        Identity::read(&its, now).context("use the answer of the plane")?;
        daemon::files::sync_directory(made.path()).context("write the identity to the disk")?;
        let link = self.link_beside(made.path())?;
        // From here on, the link may name it.
        let _kept = made.keep();
        self.switch_to(&link)
    }

    fn write(&self, to: &Path, key: &KeyPair, response: &Response) -> Result<()> {
        let its = IdentityFiles::below(to);
        self.write_private(&its.key, key.serialize_pem().as_bytes())?;
        daemon::files::replace(&its.certificate, response.certificate.as_bytes(), 0o644)?;
        daemon::files::replace(&its.roots, response.roots.as_bytes(), 0o644)?;
        if let Some(queue) = &response.message_queue {
            let text = message_queue(queue)?;
            daemon::files::replace(&to.join(MESSAGE_QUEUE), text.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Writes a file that only the user of pf9-comms may read.
    fn write_private(&self, path: &Path, content: &[u8]) -> Result<()> {
        daemon::files::replace(path, content, 0o600)?;
        // Only root may give a file away, and a user who has it already needs no more.
        if self.user.uid != nix::unistd::geteuid() {
            chown(path, Some(self.user.uid), Some(self.user.gid))
                .with_context(|| format!("give {} to {}", path.display(), self.user.name))?;
        }
        // Its owner has to be on the disk, too, before anything names the file.
        File::open(path)
            .and_then(|its| its.sync_all())
            .with_context(|| format!("write {} to the disk", path.display()))
    }

    /// Writes `USER:PASSWORD` of a proxy for pf9-comms, and returns the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_credentials(&self, credentials: &Credentials) -> Result<PathBuf> {
        let path = self.directory.join(CREDENTIALS);
        self.write_private(&path, format!("{}\n", credentials.basic()).as_bytes())?;
        Ok(path)
    }

    /// Whether the user of pf9-comms may read a file, by its owner, its group and its mode.
    #[must_use]
    pub fn user_may_read(&self, path: &Path) -> bool {
        path.metadata()
            .is_ok_and(|its| directories::allows(&its, &self.user, directories::READ))
    }

    /// Makes a link to this directory beside [`CURRENT`].
    fn link_beside(&self, directory: &Path) -> Result<PathBuf> {
        let link = self.directory.join(format!("{CURRENT}.new"));
        let doing = || format!("make the link {}", link.display());
        let name = directory.file_name().with_context(doing)?;
        daemon::files::removed(fs::remove_file(&link)).with_context(doing)?;
        std::os::unix::fs::symlink(name, &link).with_context(doing)?;
        Ok(link)
    }

    /// Makes [`CURRENT`] this link, in one step.
    fn switch_to(&self, link: &Path) -> Result<()> {
        let current = self.directory.join(CURRENT);
        fs::rename(link, &current)
            .and_then(|()| daemon::files::sync_directory(&self.directory))
            .with_context(|| format!("make {} name the new identity", current.display()))
    }

    /// Removes the identities of before, what a crash has left, and the pending key: the end of an enrolment. Temporary files younger than `abandoned` stay, for other programs that write
    /// there.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn finish(self, abandoned: Duration) -> Result<()> {
        let current = self.directory.join(CURRENT);
        let used =
            fs::read_link(&current).with_context(|| format!("read {}", current.display()))?;
        let reading = || {
            format!(
                "look for identities of before in {}",
                self.directory.display()
            )
        };
        for entry in fs::read_dir(&self.directory).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let is_identity = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if is_identity && entry.file_name() != used {
                let path = entry.path();
                fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        // A key or a password may be in them.
        daemon::files::sweep(&self.directory, abandoned)?;
        daemon::files::removed(fs::remove_file(self.directory.join(PENDING)))
            .context("remove the pending key")
    }
}

/// The credentials as daemons read them.
fn message_queue(queue: &MessageQueue) -> Result<String> {
    let text = serde_json::to_string_pretty(queue)
        .context("write the credentials of the message queue")?;
    Ok(text + "\n")
}

/// Longest id of a host.
const LONGEST_ID: usize = 64;

/// The certificate is one of a client, of the roots in the answer, and these have the root that was named.
fn check(response: &Response, root: Fingerprint, now: SystemTime) -> Result<()> {
    let read = |text: &str| -> Result<Vec<CertificateDer<'static>>> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        found.context("read its certificates")
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let id = response.host_id.as_bytes();
    if id.is_empty() || id.len() > LONGEST_ID || !id.iter().all(|byte| is_plain(*byte)) {
        bail!("its id of this host is none");
    }
    let roots = read(&response.roots)?;
    if !roots.iter().any(|its| root.is_of(its)) {
        bail!("its roots do not have the one with the fingerprint that was given");
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).context("trust its roots")?;
    }
    let chain = read(&response.certificate)?;
    let (own, others) = chain.split_first().context("it has no certificate")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(store),
        Arc::new(identity::provider()),
    );
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
    verifier
        .build()
        .context("trust its roots")?
        .verify_client_cert(own, others, now)
        .context("trust its certificate; is the clock of this host right?")?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::OnceLock;
    use std::time::Instant;

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    };
    use sha2::{Digest as _, Sha256};
    use traced::{RENAMES, SYNCS, is, position};
    use wire::enrolment::{LARGEST_RESPONSE, Secret};

    use super::*;
    use bounds::{content, quickly};

    /// Time for a program that another test starts: until it runs, it has the descriptors of this process, also one of a lock that was given back.
    const STARTS: Duration = Duration::from_secs(10);

    pub(in crate::enroll) fn place_in(directory: &Path) -> Place {
        let user = User::from_uid(nix::unistd::geteuid());
        let user = user.expect("users").expect("this one");
        let began = Instant::now();
        loop {
            match Place::new(directory, user.clone()) {
                Ok(place) => return place,
                Err(error) => assert!(began.elapsed() < STARTS, "{error:#}"),
            }
            std::thread::yield_now();
        }
    }

    /// A certificate of a new authority for this key, and the fingerprint of its root.
    pub(in crate::enroll) fn answer(key: &KeyPair) -> (Response, Fingerprint) {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name
            .push(DnType::CommonName, "the plane");
        let root_key = KeyPair::generate().expect("a key");
        let roots = root.self_signed(&root_key).expect("a root");
        let digest = Sha256::digest(roots.der());
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut own = CertificateParams::default();
        own.distinguished_name.push(DnType::CommonName, "id");
        own.not_after = rcgen::date_time_ymd(2100, 1, 1);
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(&root, &root_key);
        let certificate = own.signed_by(key, &issuer).expect("a certificate");
        let response = Response {
            version: wire::enrolment::VERSION,
            host_id: "id".to_owned(),
            certificate: certificate.pem(),
            roots: roots.pem(),
            message_queue: Some(MessageQueue {
                user: "host.id".to_owned(),
                password: Secret("secret".to_owned()),
                virtual_host: "pf9".to_owned(),
            }),
        };
        (response, digits.parse().expect("a fingerprint"))
    }

    /// Gets as far as [`Place::install`]. Returns the certificate that is in place then.
    fn installed(place: &Place) -> String {
        let key = place.pending_key().expect("a key");
        let (response, root) = answer(&key);
        let installed = place.install(&key, &response, root, SystemTime::now());
        installed.expect("it is installed");
        response.certificate
    }

    /// After a power cut at any time, the link names an identity that is whole, and a key that has got a certificate is there.
    #[test]
    fn an_identity_is_on_the_disk_before_the_link_names_it_and_the_one_before_goes_later() {
        let test = "enroll::install::tests::an_identity_is_on_the_disk_before_the_link_names_it_and_the_one_before_goes_later";
        let Some(calls) = traced::calls(test) else {
            for _ in 0..2 {
                let place = place_in(&traced::directory());
                installed(&place);
                place.finish(Duration::ZERO).expect("it ends");
            }
            return;
        };
        let mut rest = &calls[..];
        for _ in 0..2 {
            let switch = position(rest, |call| is(call, RENAMES, CURRENT), "switch");
            let (before, after) = rest.split_at(switch);
            for name in ["host.key", "host.crt", "roots.crt", MESSAGE_QUEUE] {
                let end = format!("/{name}");
                let is_put = |call: &str| {
                    let name = call.split(' ').next().unwrap_or_default();
                    RENAMES.contains(&name) && call.ends_with(&end)
                };
                let put = position(before, is_put, name);
                let path = before[put].rsplit(' ').next().expect("its path");
                let directory = path.strip_suffix(&end).expect("its directory");
                let is_synced = |call: &str| is(call, &["fsync"], directory);
                position(&before[put..], is_synced, "fsync of the identity");
                if name == "host.key" {
                    let is_synced = |call: &str| is(call, SYNCS, path);
                    position(&before[put..], is_synced, "fsync of the owner");
                }
            }
            let removes = |call: &str| {
                let removed = call.strip_prefix("unlink").or(call.strip_prefix("rmdir"));
                removed.is_some_and(|its| its.contains(PREFIX) || its.contains(PENDING))
            };
            let kept = position(after, |call| is(call, &["fsync"], "."), "fsync of the link");
            let removed = position(after, removes, "removal");
            assert!(kept < removed, "{calls:#?}");
            rest = &after[1..];
        }
    }

    #[test]
    fn what_a_crash_has_left_is_in_no_use_and_the_next_enrolment_removes_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        let current = directory.join(CURRENT);
        let in_use = || {
            let files = IdentityFiles::below(&current);
            Identity::read(&files, SystemTime::now()).expect("it is whole");
            fs::read_to_string(files.certificate).expect("it is there")
        };
        let place = place_in(directory);
        let first = installed(&place);
        place.finish(Duration::ZERO).expect("it ends");
        // Before the switch: a part of the files, and the link beside.
        let half = directory.join("identity-half");
        fs::create_dir(&half).expect("it is made");
        let key = KeyPair::generate().expect("a key");
        fs::write(half.join("host.key"), key.serialize_pem()).expect("it is written");
        let link = directory.join(format!("{CURRENT}.new"));
        std::os::unix::fs::symlink("identity-half", link).expect("it is made");
        // A key that was being written, too.
        fs::write(directory.join(".new-half00"), key.serialize_pem()).expect("it is written");
        assert_eq!(in_use(), first);
        // After the switch, and before the end.
        let place = place_in(directory);
        let second = installed(&place);
        assert_eq!(in_use(), second);
        drop(place);
        let place = place_in(directory);
        let third = installed(&place);
        place.finish(Duration::ZERO).expect("it ends");
        assert_eq!(in_use(), third);
        let used = fs::read_link(&current).expect("a link");
        let left = fs::read_dir(directory).expect("a directory").flatten();
        let mut left: Vec<_> = left.map(|its| its.file_name()).collect();
        left.sort();
        assert_eq!(left, [LOCK.as_ref(), CURRENT.as_ref(), used.as_os_str()]);
    }

    /// An answer of a plane whose texts are not what they should be.
    #[test]
    fn a_wrong_answer_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place_in(directory.path());
        let second = Place::new(directory.path(), place.user.clone()).expect_err("one at a time");
        assert!(
            second
                .to_string()
                .contains("another `pf9-comms enroll` runs")
        );
        let key = place.pending_key().expect("a key");
        let again = place.pending_key().expect("the same");
        assert_eq!(key.serialize_pem(), again.serialize_pem());
        std::fs::write(directory.path().join(PENDING), "damaged").expect("it is written");
        let other = place.pending_key().expect("another");
        assert_ne!(key.serialize_pem(), other.serialize_pem());
        let root: Fingerprint = "00".repeat(32).parse().expect("a fingerprint");
        let answer = |id: &str, text: &str| Response {
            version: wire::enrolment::VERSION,
            host_id: id.to_owned(),
            certificate: text.to_owned(),
            roots: text.to_owned(),
            message_queue: None,
        };
        let long = "a".repeat(100);
        for (id, text) in [
            ("", ""),
            ("id", ""),
            ("id\u{1b}[2J", "x"),
            (&long, "x"),
            ("id", "x"),
        ] {
            let response = answer(id, text);
            place
                .install(&key, &response, root, SystemTime::now())
                .expect_err("it is refused");
        }
        let left = std::fs::read_dir(directory.path()).expect("a directory");
        let left: Vec<_> = left.flatten().map(|its| its.file_name()).collect();
        let mut left = left;
        left.sort();
        assert_eq!(left, [LOCK, PENDING]);
    }

    #[test]
    fn a_directory_with_the_name_of_the_link_is_refused_with_the_next_step() {
        let directory = tempfile::tempdir().expect("a directory");
        let current = directory.path().join(CURRENT);
        fs::create_dir(&current).expect("it is made");
        let user = place_in(&directory.path().join("other")).user;
        let error = Place::new(directory.path(), user).expect_err("it is a directory");
        let path = current.display();
        let next = format!("`mv {path} {path}.before`");
        assert!(error.to_string().contains(&next), "{error:#}");
        fs::rename(&current, directory.path().join("current.before")).expect("it is moved");
        installed(&place_in(directory.path()));
    }

    #[test]
    fn a_pending_key_that_others_may_read_is_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = place_in(directory.path());
        let key = place.pending_key().expect("a key");
        let path = directory.path().join(PENDING);
        for mode in [0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode is set");
            let error = place.pending_key().expect_err("others may read it");
            let found = format!("{error:#}");
            assert!(
                found.contains(&format!("its mode is {mode:04o}")),
                "{found}"
            );
            let next = format!("remove {}", path.display());
            assert!(found.contains(&next), "{found}");
        }
        fs::remove_file(&path).expect("it is removed");
        let other = place.pending_key().expect("a new one");
        assert_ne!(key.serialize_pem(), other.serialize_pem());
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(text in "(?s).{0,300}", body in "[A-Za-z0-9+/=\n]{0,300}") {
            let root: Fingerprint = "00".repeat(32).parse().expect("a fingerprint");
            let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
            for its in [&text, &pem] {
                let response = Response {
                    version: wire::enrolment::VERSION,
                    host_id: "id".to_owned(),
                    certificate: its.clone(),
                    roots: its.clone(),
                    message_queue: None,
                };
                let checked = quickly(|| check(&response, root, SystemTime::now()));
                checked.expect_err("it is refused");
            }
        }
    }

    /// Each of them has the name of the one that has signed, and another key: a signature is verified with many of them.
    #[test]
    fn many_roots_that_have_not_signed_are_refused_quickly() {
        let key = KeyPair::generate().expect("a key");
        let (mut response, _) = answer(&key);
        let (other, root) = answer(&key);
        let count = LARGEST_RESPONSE / other.roots.len();
        response.roots = other.roots.repeat(count);
        let checked = quickly(|| check(&response, root, SystemTime::now()));
        checked.expect_err("it is refused");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn no_answer_of_any_size_takes_long(
            text in content(LARGEST_RESPONSE, &[
                "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n", "-----", "MIIB", "AAAA\n", "=", "\n", "\r\n", " ",
            ]),
            is_roots in any::<bool>(),
        ) {
            static SOUND: OnceLock<(Response, Fingerprint)> = OnceLock::new();
            let (sound, root) = SOUND.get_or_init(|| answer(&KeyPair::generate().expect("a key")));
            let mut response = sound.clone();
            let text = String::from_utf8_lossy(&text);
            // Roots after the right one may be anything, and the certificate may not.
            match is_roots {
                true => response.roots.push_str(&text),
                false => response.certificate = text.into_owned(),
            }
            let checked = quickly(|| check(&response, *root, SystemTime::now()));
            prop_assert!(is_roots || checked.is_err());
        }
    }
}
