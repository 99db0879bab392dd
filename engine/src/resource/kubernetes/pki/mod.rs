//! What Kubernetes and its components expect of certificates: paths, kubeconfigs, and which component uses which certificate.
//!
//! `layout` has the paths of authorities, certificates, kubeconfigs and their records. `consumers` is the table of the components, and of
//! how each of them starts to use a renewed certificate. `kubeconfig` is a kind of resource: a file that contains its certificate and key,
//! or names their files.
//!
//! `resource::pki` exports all of it, so other modules need only one of the two. Not here: how keys and certificates are made, stored and
//! recorded (`resource::pki`), and when they are renewed (`exec::kubernetes`). Start with `layout`.

pub(in crate::resource) mod consumers;
pub(in crate::resource) mod kubeconfig;
pub(in crate::resource) mod layout;
