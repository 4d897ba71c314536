use std::process::ExitCode;

fn main() -> ExitCode {
    tako::tako()
}
