//! The program `nodeletd`. See the library `nodelet`.

fn main() -> std::process::ExitCode {
    nodelet::nodeletd()
}
