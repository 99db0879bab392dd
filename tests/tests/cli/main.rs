//! How the program answers: exit codes, messages, JSON, help.

mod exit_codes;
mod inputs;
mod json;
mod plans;
mod roles;

/// The role of the checkout. A plain name means an installed role.
const ROLE: &str = "./roles/pf9-kube";

/// Copies a directory with all that is in it; the copy belongs to us.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory of our own");
    for entry in std::fs::read_dir(from).expect("a directory of the checkout") {
        let entry = entry.expect("an entry");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            let text = std::fs::read(&path).expect("a file of the checkout");
            std::fs::write(to, text).expect("a file of our own");
        }
    }
}
