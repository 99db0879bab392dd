//! Syntax of names that other projects define: DNS names, images, versions. Pure predicates.

use std::net::IpAddr;

/// DNS-1123 subdomain: RFC 1123 labels in lower case, as Kubernetes takes them.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A DNS name that cannot be a mistyped IPv4 address: its last label is not all digits (RFC 1123, 2.1).
pub(crate) fn is_host_name(text: &str) -> bool {
    is_dns_name(text)
        && text
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// `host`, `host:port`, `address:port` or `[v6]:port`. Host names may have upper case here, as in URLs.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if !address
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_ipv6())
            {
                return false;
            }
            match (rest, rest.strip_prefix(':')) {
                ("", _) => return true,
                (_, Some(port)) => return is_port(port),
                (_, None) => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    (host.parse::<IpAddr>().is_ok() || is_host_name(&host.to_ascii_lowercase()))
        && port.is_none_or(is_port)
}

/// Digits of a TCP port, 1 to 65535, without sign and leading zero.
pub(crate) fn is_port(text: &str) -> bool {
    is_plain_number(text) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Decimal digits without leading zero. A leading zero reads as octal elsewhere, so it is refused.
pub(crate) fn is_plain_number(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

/// An http or https address without user, query and fragment.
pub(crate) fn is_http_url(text: &str) -> bool {
    let Some(rest) = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
    else {
        return false;
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    is_authority(authority)
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._~-%".contains(&b))
}

/// Comma-separated names, addresses and networks, as programs accept them in `NO_PROXY`: `*` and a leading dot match many names.
pub(crate) fn are_proxy_exceptions(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".-_:*/[], ".contains(&b))
}

/// One part of an image's path: lower-case letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_image_part(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// Host, optional port, optional path: the part of an image's name before the last slash.
pub(crate) fn is_registry(text: &str) -> bool {
    let mut parts = text.split('/');
    parts.next().is_some_and(is_authority) && parts.all(is_image_part)
}

/// `[registry/]path[:tag][@sha256:digest]` with a tag or a digest, so that it cannot silently mean `latest`.
pub(crate) fn is_image(text: &str) -> bool {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let digest_is_good = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    });
    let slash = named.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match named[slash..].split_once(':') {
        Some((last, tag)) => (&named[..slash + last.len()], Some(tag)),
        None => (named, None),
    };
    let tag_is_good = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    let path_is_good = match path.split_once('/') {
        Some((first, rest)) => {
            (is_image_part(first) || is_authority(first)) && rest.split('/').all(is_image_part)
        }
        None => is_image_part(path),
    };
    (tag.is_some() || digest.is_some()) && digest_is_good && tag_is_good && path_is_good
}

/// `v1.20.2`, with three plain numbers.
pub(crate) fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|numbers| {
        let mut count = 0;
        numbers.split('.').all(|number| {
            count += 1;
            is_plain_number(number) && number.len() <= 9
        }) && count == 3
    })
}

/// The kernel's CPU list: `0-1,4`, each range in rising order.
pub(crate) fn is_cpu_set(text: &str) -> bool {
    let number = |text: &str| {
        is_plain_number(text)
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    text.split(',').all(|part| match part.split_once('-') {
        Some((low, high)) => number(low)
            .zip(number(high))
            .is_some_and(|(low, high)| low <= high),
        None => number(part).is_some(),
    })
}

/// 8-4-4-4-12 hexadecimal digits.
pub(crate) fn is_uuid(text: &str) -> bool {
    let mut lengths = [8_usize, 4, 4, 4, 12].into_iter();
    text.split('-').all(|part| {
        lengths.next() == Some(part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    }) && lengths.next().is_none()
}

/// `--name` or `--name=value`, on one line: a line break would begin another option in a unit file.
pub(crate) fn is_flag(text: &str) -> bool {
    let Some(flag) = text.strip_prefix("--") else {
        return false;
    };
    if flag.chars().any(char::is_control) {
        return false;
    }
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that a predicate accepts the first list and refuses the second.
    fn check(predicate: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(predicate(text), "{text} is good");
        }
        for text in bad {
            assert!(!predicate(text), "{text} is bad");
        }
    }

    #[test]
    fn names_follow_their_definitions() {
        let long = "a".repeat(64);
        check(
            is_dns_name,
            &["a", "cp-1.example.com", "1a", "10"],
            &["", "A", "-a", "a-", "a..b", "a_b", "a.", &long],
        );
        check(
            is_host_name,
            &["cp-1", "1.2.3.example"],
            &["10.0.0.256", "300", ""],
        );
        check(
            is_authority,
            &["h", "H:1", "10.0.0.1:80", "[fd00::1]:80", "[fd00::1]"],
            &[
                "",
                ":80",
                "h:",
                "h:0",
                "h:65536",
                "h:080",
                "[h]:1",
                "u:p@h",
                "[fd00::1]x",
                "fd00::1",
            ],
        );
        check(
            is_http_url,
            &["http://h", "https://h:5001/a/b"],
            &[
                "h",
                "ftp://h",
                "http://",
                "http://u:p@h",
                "http://h/a b",
                "http://h?q",
            ],
        );
    }

    #[test]
    fn images_follow_their_definitions() {
        let digest = format!("h/a@sha256:{}", "0".repeat(64));
        check(
            is_image,
            &[
                "k8s.gcr.io/etcd:3.4.23-0",
                "etcd:1",
                "localhost:5001/a/b:x",
                "pf9/nodelet:v1",
                &digest,
            ],
            &[
                "etcd",
                "k8s.gcr.io/etcd",
                "h/A:1",
                "h/a:",
                "h/a:-1",
                "a:1 ",
                "/a:1",
                "h//a:1",
                "a@sha256:0",
                ":1",
                "h/a:1:2",
                "-a:1",
            ],
        );
        check(
            is_registry,
            &["k8s.gcr.io", "h:5001", "h/a/b"],
            &["", "h/", "/h", "http://h", "h/A", "h h"],
        );
        check(
            is_version,
            &["v1.20.2", "v0.0.0"],
            &[
                "1.20.2",
                "v1.20",
                "v1.20.2.3",
                "v1.20.02",
                "v1.20.x",
                "v1.20.2-rc1",
            ],
        );
    }

    #[test]
    fn small_forms_follow_their_definitions() {
        check(
            is_cpu_set,
            &["0", "0-1,4"],
            &["", "1-0", "a", "0,", "-1", "0-", "70000"],
        );
        check(
            is_uuid,
            &["0d1bd3f8-6b0f-4b0e-9d6b-2f3c4d5e6f70"],
            &[
                "",
                "0d1bd3f8",
                "0d1bd3f8-6b0f-4b0e-9d6b-2f3c4d5e6f7g",
                "0d1bd3f8-6b0f-4b0e-9d6b-2f3c4d5e6f70-1",
            ],
        );
        check(
            is_flag,
            &["--v=2", "--a", "--feature-gates=A=true,B=false", "--x="],
            &["v", "-v", "--", "--=1", "--a b", "---a", "--a=b\nc"],
        );
    }
}
