//! Files that must not be lost: keys, etcd's data and backups, images.

pub(crate) mod bitrot;
pub(crate) mod etcd_backup;
pub(crate) mod etcd_data;
pub(crate) mod user_images;
