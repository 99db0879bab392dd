//! kube.env: the typed settings of a node, from files to a shell-safe environment.
//!
//! One table ([`KEYS`]) describes every setting. [`KubeEnv::resolve`] merges the contents of
//! `/etc/pf9/nodelet/*.yaml` over the defaults and refuses what is wrong, naming file and line;
//! [`render()`] writes `/etc/pf9/kube.env`; [`parse()`] reads it (and `kube_override.env`) back; [`template()`]
//! prints `kube.env.template`. Settings of the role's parameters ([`ROLE_PREFIX`]) are kept as text; the planner checks them,
//! because only `role.yaml` knows their types. The agents and the script evaluator call it. The module neither reads files nor touches
//! a host: callers pass contents and get text back, so tests need only values.
//!
//! Not here: the declarations of parameters (`role`) and what scripts read as `kube` (`planner::context`). Start with `keys` (the
//! table), then `kube_env` (how settings are merged).

mod check;
mod error;
mod key;
mod keys;
mod kube_env;
mod names;
mod render;
mod rules;
mod source;
mod suggest;
mod template;
mod value;

pub use check::Refusal;
pub use error::{EnvError, Found};
pub(crate) use key::ValueType;
pub use key::{DefaultValue, Key, Kind};
pub use keys::KEYS;
pub use kube_env::KubeEnv;
pub(crate) use names::is_dns_name;
pub(crate) use render::assignment;
pub use render::{GENERATED_NOTICE, render};
pub use source::layers::{
    Layered, MAX_FILE_BYTES, MAX_FILES, MAX_KEYS_PER_FILE, MAX_VALUE_BYTES, ROLE_PREFIX, Setting,
    load_directory,
};
pub use source::parse::{Assignment, MAX_ENV_BYTES, parse};
pub use source::place::{Place, Source};
pub use template::template;
pub use value::{SecretText, SettingValue};
