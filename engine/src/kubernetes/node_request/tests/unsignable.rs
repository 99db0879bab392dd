//! Requests that cannot be signed, or that would fill reasons and logs.

use super::*;

#[test]
fn a_request_that_cannot_be_signed_is_denied() {
    let world = World::new();
    let good = request(&kubelet(), &CLIENT);
    let with = |content: Vec<u8>| CertificateRequest {
        request: content,
        ..good.clone()
    };
    let before = [b"text\n".to_vec(), good.request.clone()].concat();
    let after = [good.request.clone(), b"text\n".to_vec()].concat();
    let no_text = [good.request.clone(), vec![0xff]].concat();
    for content in [before, after, no_text] {
        world.denies(&with(content), "not one certification request");
    }
    // A subject with both attributes in one part. The set has them in the order of their encoding.
    let name = b"\x30\x0b\x06\x03\x55\x04\x0a\x0c\x04root\x30\x0b\x06\x03\x55\x04\x03\x0c\x04root";
    let der = multi_valued(name);
    world.denies(&with(pem_block(&der)), "more than one attribute");
}

/// A request with this content as the only part of its subject, signed by its key.
fn multi_valued(part: &[u8]) -> Vec<u8> {
    use rcgen::{PublicKeyData as _, SigningKey as _};
    let wrap = |tag: u8, content: &[u8]| {
        let length = content.len();
        let mut der = vec![tag];
        match u8::try_from(length) {
            Ok(short) if short < 128 => der.push(short),
            Ok(long) => der.extend([0x81, long]),
            Err(_) => panic!("it is short"),
        }
        der.extend(content);
        der
    };
    let key = KeyPair::generate().expect("a key");
    let subject = wrap(0x30, &wrap(0x31, part));
    let version = [2, 1, 0].to_vec();
    let info = [
        version,
        subject,
        key.subject_public_key_info(),
        vec![0xa0, 0],
    ]
    .concat();
    let info = wrap(0x30, &info);
    let signature = key.sign(&info).expect("a signature");
    // ecdsa-with-SHA256
    let algorithm = wrap(0x30, &wrap(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
    let signature = wrap(3, &[vec![0], signature].concat());
    wrap(0x30, &[info, algorithm, signature].concat())
}

#[test]
fn texts_of_a_request_are_escaped_and_cut_in_reasons() {
    let world = World::new();
    let odd = format!("system:node:\u{1b}[1m\n{}", "x".repeat(5000));
    let reason = world.decide(&request(&params(&odd, &["system:nodes"]), &CLIENT));
    let reason = reason.expect_err("another name");
    assert!(reason.contains("\\u{1b}[1m\\n"), "{reason}");
    assert!(
        !reason.chars().any(char::is_control) && reason.len() < 400,
        "{reason}"
    );
    let usages = vec!["y".repeat(5000); 3];
    let asked = CertificateRequest {
        usages,
        ..request(&kubelet(), &CLIENT)
    };
    assert!(world.decide(&asked).expect_err("odd usages").len() < 400);
}
