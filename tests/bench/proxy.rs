//! The data plane alone, for `make bench-proxy`: no instances, no releases, one origin that is already there.
//!
//! usage: proxy WORKERS HTTP HTTPS ORIGIN CHAIN KEY [FOLDER HTTP HTTPS]

use std::process::ExitCode;
use std::time::Duration;

use tako::lab::serve::{Plan, serve};

const USAGE: &str = "usage: proxy WORKERS HTTP HTTPS ORIGIN CHAIN KEY [FOLDER HTTP HTTPS]";

#[expect(clippy::print_stderr, reason = "a program of its own, without the logger")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match plan(&args).and_then(serve) {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn plan(args: &[String]) -> Result<Plan, String> {
    let ([workers, http, https, origin, chain, key], files) = args.split_first_chunk().ok_or(USAGE)?;
    let address = |s: &String| s.parse().map_err(|e| format!("{s}: {e}"));
    let files = match files {
        [] => None,
        [folder, plain, secure] => Some((folder.into(), address(plain)?, address(secure)?)),
        _ => return Err(USAGE.into()),
    };
    let file = |path: &String| std::fs::read(path).map_err(|e| format!("read {path}: {e}"));
    Ok(Plan {
        workers: workers.parse().map_err(|e| format!("{workers}: {e}"))?,
        http: address(http)?,
        https: address(https)?,
        origin: address(origin)?,
        files,
        chain: file(chain)?,
        key: file(key)?,
        idle: Duration::from_secs(300),
    })
}
