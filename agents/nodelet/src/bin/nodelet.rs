//! The program `nodelet`. See the library of the same name.

fn main() -> std::process::ExitCode {
    nodelet::command_line()
}
