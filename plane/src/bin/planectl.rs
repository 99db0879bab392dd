//! The program `planectl`. See the library `plane`.

fn main() -> std::process::ExitCode {
    plane::main()
}
