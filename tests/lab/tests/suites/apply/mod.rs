//! What `nodelet apply` does on a real host: the first time, again, interrupted, refused, and after a failure.

pub(crate) mod attempts;
pub(crate) mod earlier_version;
pub(crate) mod faults;
pub(crate) mod interrupt;
pub(crate) mod prediction;
pub(crate) mod preflight;
pub(crate) mod refusal;
pub(crate) mod second_apply;
pub(crate) mod up;

use lab_suites::Master;

/// Installs the role package `other`, which has one file.
fn install_another_role(master: &Master) {
    master.sh("mkdir -p /opt/pf9/roles/other/1/phases/templates
         cat > /opt/pf9/roles/other/1/role.yaml <<'END'
version: 1
name: other
release: '1'
about: Has one file.
nodes:
  master: [example]
payload: []
END
         cat > /opt/pf9/roles/other/1/phases/example.rhai <<'END'
phase(\"example\").about(\"Has one file.\").nodes([\"master\"]);
file(\"/etc/pf9/example\").content(\"\");
END
         ln -s 1 /opt/pf9/roles/other/current");
}

/// Removes the role package `other`.
fn remove_another_role(master: &Master) {
    master.sh("rm -r /opt/pf9/roles/other");
}
