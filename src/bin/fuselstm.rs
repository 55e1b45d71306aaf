//! The command `fuselstm`.

fn main() -> std::process::ExitCode {
    fuselstm::cli::main()
}
