//! What Kubernetes and its components expect of certificates: paths, kubeconfigs, and which component uses which certificate.
//!
//! `resource::pki` exports all of it. Not here: how keys and certificates are made (`resource::pki`). Start with `layout`.

pub(in crate::resource) mod consumers;
pub(in crate::resource) mod kubeconfig;
pub(in crate::resource) mod layout;
