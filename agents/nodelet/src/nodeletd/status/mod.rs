//! What nodeletd reports of the host.
//!
//! `kube_status` is the file for hostagent and people, with the fields of the original nodelet. `view` is what the socket and `nodelet
//! status` show. `metrics` is the same for Prometheus, and
//! `cluster_metrics` gets those of the whole cluster from `nodelet cluster status`. Not here: how reports are served (`api`). Start with `view`.

pub(in crate::nodeletd) mod cluster_metrics;
pub(in crate::nodeletd) mod kube_status;
pub(in crate::nodeletd) mod metrics;
pub(in crate::nodeletd) mod view;
