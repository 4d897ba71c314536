//! The command line of `tako-server`, as typed. What it means is for `settings`.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::error::{Error, Kind, Result};

pub(crate) const HELP: &str = "\
tako-server runs your apps and serves their traffic.

Usage: tako-server [options]         run the daemon
       tako-server ctl [--socket P]  speak to the running daemon over stdin and stdout

Options:
  --data-dir DIR       where releases, logs and keys lie (default /opt/tako)
  --socket PATH        management socket (default $TAKO_SOCKET, else /var/run/tako/tako.sock)
  --http ADDR          listen here for HTTP, repeatable (default 0.0.0.0:80 and [::]:80)
  --https ADDR         listen here for HTTPS, repeatable (default 0.0.0.0:443 and [::]:443)
  --https-port N       port named in redirects to HTTPS (default: where HTTPS listens)
  --workers N          proxy threads (default: one per core, at most 4)
  --trusted-proxy NET  believe X-Forwarded-* from this address or network, repeatable
  --access-log on|off  write a line for every request, beside the app's log (default on)
  --metrics ADDR       tell Prometheus numbers at http://ADDR/metrics; a loopback address (default off)
  --app-users on|off   run every app as a user of its own, which takes root (default on for root)
  --stop-with-stdin    stop when standard input ends, as with whoever holds it
  --version            print the version
  --help               print this
";

#[derive(Debug, PartialEq)]
pub(crate) enum Args {
    Run(Run),
    Ctl { socket: Option<PathBuf> },
    Version,
    Help,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub data_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub http: Vec<String>,
    pub https: Vec<String>,
    pub https_port: Option<u16>,
    pub workers: Option<usize>,
    pub trusted_proxies: Vec<String>,
    pub access_log: Option<String>,
    pub metrics: Option<String>,
    pub app_users: Option<String>,
    pub stop_with_stdin: bool,
}

/// # Errors
/// Usage, naming the word that is wrong.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args> {
    parse_plainly(lexopt::Parser::from_args(args))
        .map_err(|e| Error::new(Kind::Usage, e.to_string()).hint("run `tako-server --help` for what it understands"))
}

fn parse_plainly(mut parser: lexopt::Parser) -> Result<Args, lexopt::Error> {
    let mut run = Run::default();
    let mut ctl = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok(Args::Help),
            Long("version") | Short('V') => return Ok(Args::Version),
            Long("socket") => run.socket = Some(parser.value()?.into()),
            Value(word) if !ctl && run == Run::default() && word == "ctl" => ctl = true,
            other if ctl => return Err(other.unexpected()),
            Long("data-dir") => run.data_dir = Some(parser.value()?.into()),
            Long("http") => run.http.push(parser.value()?.string()?),
            Long("https") => run.https.push(parser.value()?.string()?),
            Long("https-port") => run.https_port = Some(parser.value()?.parse()?),
            Long("workers") => run.workers = Some(parser.value()?.parse()?),
            Long("trusted-proxy") => run.trusted_proxies.push(parser.value()?.string()?),
            Long("access-log") => run.access_log = Some(parser.value()?.string()?),
            Long("metrics") => run.metrics = Some(parser.value()?.string()?),
            Long("app-users") => run.app_users = Some(parser.value()?.string()?),
            Long("stop-with-stdin") => run.stop_with_stdin = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(if ctl { Args::Ctl { socket: run.socket } } else { Args::Run(run) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_flag_of_the_daemon() {
        let line = "--data-dir /d --socket /s --http 127.0.0.1:0 --http [::1]:0 --https 127.0.0.1:1 --https-port 444 \
                    --workers 2 --trusted-proxy 10.0.0.0/8 --access-log off --metrics 127.0.0.1:9 --app-users off \
                    --stop-with-stdin";
        let expected = Run {
            data_dir: Some("/d".into()),
            socket: Some("/s".into()),
            http: vec!["127.0.0.1:0".into(), "[::1]:0".into()],
            https: vec!["127.0.0.1:1".into()],
            https_port: Some(444),
            workers: Some(2),
            trusted_proxies: vec!["10.0.0.0/8".into()],
            access_log: Some("off".into()),
            metrics: Some("127.0.0.1:9".into()),
            app_users: Some("off".into()),
            stop_with_stdin: true,
        };
        assert_eq!(args(line).unwrap(), Args::Run(expected));
        assert_eq!(args("").unwrap(), Args::Run(Run::default()));
    }

    #[test]
    fn reads_the_bridge_and_the_questions() {
        assert_eq!(args("ctl").unwrap(), Args::Ctl { socket: None });
        assert_eq!(args("ctl --socket /s").unwrap(), Args::Ctl { socket: Some("/s".into()) });
        assert_eq!(args("--version").unwrap(), Args::Version);
        assert_eq!(args("ctl --help").unwrap(), Args::Help);
    }

    #[test]
    fn a_wrong_word_is_a_usage_error_that_names_it() {
        for (line, word) in [
            ("--datadir /x", "--datadir"),
            ("serve", "serve"),
            ("ctl --workers 2", "--workers"),
            ("ctl ctl", "ctl"),
            ("--workers many", "many"),
            ("--data-dir", "--data-dir"),
            ("--https-port 99999", "99999"),
        ] {
            let e = args(line).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{line}");
            assert!(e.to_string().contains(word), "{line}: {e}");
        }
    }
}
