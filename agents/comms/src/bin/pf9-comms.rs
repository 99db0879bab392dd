//! The program `pf9-comms`. See the library `comms`.

fn main() -> std::process::ExitCode {
    comms::main()
}
