//! What a host does with each service of the plane.

use std::path::Path;

use lab::Host;
use lab::package::push_image;

use super::{Planes, fails, sh, until};

/// The credentials of a host for the message queue.
pub(super) const CREDENTIALS: &str = "/etc/pf9/comms/current/message-queue.json";
const MIB: u64 = 1024 * 1024;
/// The name of the workload image in the registry, as hosts see it.
const IMAGE: &str = "localhost:5001/toolbox:1";
/// A name that a host would like to have there.
const OTHER: &str = "localhost:5001/other:1";

/// An image of the registry comes to a host with the digest that the registry has, and a host cannot change what is there.
pub fn images_are_the_same(host: &Host, plane: &Host, toolbox: &Path) {
    let pushed = push_image(plane, toolbox, "toolbox:1").expect("the registry takes it");
    assert_eq!(pushed, image_is_pulled(host, plane));
    sh(host, &format!("docker tag {IMAGE} {OTHER}"));
    fails(host, &format!("docker push {OTHER}"));
    for (method, place) in [
        ("POST", "blobs/uploads/".to_owned()),
        ("PUT", "manifests/1".to_owned()),
        ("DELETE", format!("manifests/{pushed}")),
    ] {
        let status = sh(
            host,
            &format!(
                "curl --silent --output /dev/null --write-out '%{{http_code}}' --request {method} http://localhost:5001/v2/toolbox/{place}"
            ),
        );
        assert_eq!(status, "403", "{method} {place}");
    }
}

/// The image comes with the digest that the registry itself has. Returns the digest.
pub fn image_is_pulled(host: &Host, plane: &Host) -> String {
    let pulled = sh(
        host,
        &format!(
            "docker rmi --force {IMAGE} {OTHER} > /dev/null; docker pull --quiet {IMAGE} > /dev/null
             docker image inspect --format '{{{{index .RepoDigests 0}}}}' {IMAGE} | grep -o 'sha256:[0-9a-f]*'"
        ),
    );
    let kept = sh(
        plane,
        "curl -sI -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' http://127.0.0.1:5000/v2/toolbox/manifests/1 \
         | grep -i docker-content-digest | grep -o 'sha256:[0-9a-f]*'",
    );
    assert_eq!(pulled, kept);
    pulled
}

/// A client publishes and reads so many messages.
fn echoed(planes: &Planes, host: &Host, own: &str, count: u32) {
    planes.put_example(host, "amqp");
    sh(
        &planes.server(),
        &format!(
            "curl --silent --fail --user plane:$(cat /etc/pf9/plane/message-queue.password) --json '{{\"routing_key\": \"host.{own}.echo\"}}' \
             http://127.0.0.1:15672/api/bindings/pf9/e/host.{own}.out/q/host.{own}.in"
        ),
    );
    // As a daemon gets them, which is not root.
    let echoed = sh(
        host,
        &format!(
            "systemd-run --quiet --pipe --wait --property=User=pf9 --property=LoadCredential=mq:{CREDENTIALS} \
             sh -c 'exec amqp $CREDENTIALS_DIRECTORY/mq 5672 echo {count} host.{own}.out host.{own}.echo host.{own}.in'"
        ),
    );
    assert_eq!(echoed, format!("{count} there and back"));
}

/// A client publishes during an outage, which ends its connection. What was confirmed is in the queue afterwards, in order. [`all_answer`] has prepared the queue.
/// Returns what the client was told, a line for each connection.
pub fn confirmed_messages_outlast(host: &Host, own: &str, outage: impl FnOnce()) -> String {
    sh(
        host,
        &format!(
            "rm -f /run/published /run/publish.out /run/publish.err; systemd-run --quiet --unit=publish --property=Type=exec --property=StandardOutput=file:/run/publish.out \
             --property=StandardError=file:/run/publish.err amqp {CREDENTIALS} 5672 outlast /run/published host.{own}.out host.{own}.echo"
        ),
    );
    let confirms = |number: u32| format!("grep -q 'connection {number} confirms' /run/publish.out");
    until(host, "a message is confirmed", &confirms(1));
    outage();
    until(host, "a message is confirmed again", &confirms(2));
    sh(host, "touch /run/published");
    until(
        host,
        "the client has ended",
        "! systemctl is-active --quiet publish",
    );
    let said = sh(
        host,
        "cat /run/publish.err >&2; grep ' confirmed on ' /run/publish.out",
    );
    let count = said.split_whitespace().next().expect("a number");
    let read = sh(
        host,
        &format!("amqp {CREDENTIALS} 5672 read-back {count} host.{own}.in"),
    );
    assert_eq!(read, format!("{count} in order"), "{said}");
    sh(host, "cat /run/publish.err")
}

/// A client waits for a message while the message queue is stopped and started. It is told that its connection has ended while the queue is stopped, connects again, and
/// gets a message that is published then. [`all_answer`] has prepared the queue.
pub fn waiting_client_outlasts(host: &Host, own: &str, stop: impl FnOnce(), start: impl FnOnce()) {
    sh(
        host,
        &format!(
            "rm -f /run/wait.out /run/wait.err; systemd-run --quiet --unit=wait --property=Type=exec --property=StandardOutput=file:/run/wait.out \
             --property=StandardError=file:/run/wait.err amqp {CREDENTIALS} 5672 wait host.{own}.in"
        ),
    );
    let says = |words: &str| format!("grep -q '^connection {words}' /run/wait.out");
    until(host, "the client waits", &says("1 waits"));
    stop();
    until(host, "the client is told", &says("1 ended: "));
    start();
    until(host, "the client waits again", &says("[2-9] waits"));
    sh(
        host,
        &format!("amqp {CREDENTIALS} 5672 publish host.{own}.out host.{own}.echo"),
    );
    until(
        host,
        "the client has ended",
        "! systemctl is-active --quiet wait",
    );
    sh(
        host,
        "cat /run/wait.out /run/wait.err >&2; grep '^the message is there' /run/wait.out",
    );
}

/// Keystone gives a token to a user that pf9-comms lets in.
pub fn a_token_of_keystone(host: &Host, plane: &Host) {
    let password = sh(plane, "cat /etc/pf9/plane/keystone.password");
    let body = format!(
        r#"{{"auth": {{"identity": {{"methods": ["password"], "password": {{"user": {{"name": "admin", "domain": {{"id": "default"}}, "password": "{password}"}}}}}}}}}}"#
    );
    let said = sh(
        host,
        &format!(
            "runuser -u daemon -- curl --silent --dump-header - --output /dev/null --header 'Content-Type: application/json' --data @- \
             http://localhost:8158/v3/auth/tokens <<'BODY'\n{body}\nBODY"
        ),
    );
    assert!(
        said.contains("201") && said.to_lowercase().contains("x-subject-token: g"),
        "{said}"
    );
}

/// So many bytes are the same after they went there and came back.
fn file_is_the_same(host: &Host, length: u64) {
    let sums = sh(
        host,
        &format!(
            "head -c {length} /dev/urandom > /var/tmp/file; sha256sum < /var/tmp/file
             curl --silent --fail --upload-file /var/tmp/file http://localhost:9080/files/file
             rm /var/tmp/file; curl --silent --fail http://localhost:9080/files/file | sha256sum
             curl --silent --fail --request DELETE http://localhost:9080/files/file"
        ),
    );
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!((sums.len(), sums[0]), (2, sums[1]), "{sums:?}");
}

/// How much goes through.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Messages there and back.
    messages: u32,
    /// The length of a file that goes there and comes back, in bytes.
    file: u64,
}

impl Amounts {
    /// What has to go through on each path.
    pub const FULL: Self = Self {
        messages: 10_000,
        file: 1024 * MIB,
    };
    /// What goes through in a moment.
    pub const SMALL: Self = Self {
        messages: 200,
        file: 16 * MIB,
    };
}

/// Each service answers, and knows the host; so much goes through.
pub fn all_answer(planes: &Planes, host: &Host, id: &str, amounts: Amounts) {
    let who = sh(host, "curl --silent --fail http://localhost:9080/whoami");
    assert_eq!(who, id);
    for url in ["http://localhost:5001/v2/", "http://localhost:8158/v3"] {
        sh(host, &format!("curl --silent --fail {url}"));
    }
    echoed(planes, host, id, amounts.messages);
    file_is_the_same(host, amounts.file);
}
