//! The known key that an unknown one most likely means. Pure; the callers write the message.

use super::keys::KEYS;
use crate::model::closest;

/// The known key closest to `name`, in upper or lower case; `None` if no key is similar.
pub(in crate::env) fn closest_key(name: &str) -> Option<&'static str> {
    closest(&name.to_uppercase(), KEYS.iter().map(|key| key.name))
}

#[cfg(test)]
mod tests {
    use super::closest_key;

    #[test]
    fn misspelt_keys_are_suggested_and_unknown_ones_are_not() {
        for (slip, key) in [
            ("K8S_API_PROT", Some("K8S_API_PORT")),
            ("k8s_api_port", Some("K8S_API_PORT")),
            ("API_PORT", Some("K8S_API_PORT")),
            ("MASTER_VIP_INTERFACE", Some("MASTER_VIP_IFACE")),
            ("SERVICE_CIDR", Some("SERVICES_CIDR")),
            ("GRAVITY", None),
            ("", None),
            (&"K8S_API_PORT".repeat(6), None),
        ] {
            assert_eq!(closest_key(slip), key, "{slip}");
        }
    }
}
