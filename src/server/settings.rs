//! Settings: the command line as meant. Every value is checked and every default is here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use super::args::Run;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::paths;
use crate::proxy::table::Net;

/// More workers than this share one accept queue to no gain.
const MAX_WORKERS: usize = 64;
/// Workers by default: at four cores of proxying something else is the limit.
const DEFAULT_WORKERS: usize = 4;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Absolute.
    pub data_dir: PathBuf,
    pub socket: PathBuf,
    pub http: Vec<Listen>,
    pub https: Vec<Listen>,
    /// As asked for; `None` means where HTTPS listens.
    pub https_port: Option<u16>,
    pub workers: usize,
    pub trusted_proxies: Vec<Net>,
    /// Whether each request is told in a file.
    pub access_log: bool,
    /// Where numbers are told; loopback, since there is no password.
    pub metrics: Option<Listen>,
    /// Whether apps get users of their own, if we may give them.
    pub app_users: bool,
    /// A private server must not outlive whoever started it, however that ended.
    pub stop_with_stdin: bool,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Listen {
    pub addr: SocketAddr,
    /// A default that a host without IPv6 cannot have, and does not need.
    pub optional: bool,
}

impl Settings {
    /// # Errors
    /// Usage, naming the flag and its value.
    pub fn of(run: Run) -> Result<Self> {
        let data_dir = run.data_dir.unwrap_or_else(|| paths::DATA_DIR.into());
        Ok(Settings {
            data_dir: std::path::absolute(&data_dir).context(|| format!("find {}", data_dir.display()))?,
            socket: run.socket.unwrap_or_else(paths::socket),
            http: listens("--http", &run.http, 80)?,
            https: listens("--https", &run.https, 443)?,
            https_port: run.https_port,
            workers: workers(run.workers)?,
            trusted_proxies: run.trusted_proxies.iter().map(|s| net(s)).collect::<Result<_>>()?,
            access_log: switch("--access-log", run.access_log.as_deref(), true)?,
            metrics: run.metrics.as_deref().map(loopback).transpose()?,
            app_users: switch("--app-users", run.app_users.as_deref(), true)?,
            stop_with_stdin: run.stop_with_stdin,
        })
    }
}

/// Both families are bound one by one, so that an IPv4 peer is never seen as `::ffff:…`.
fn listens(flag: &str, typed: &[String], port: u16) -> Result<Vec<Listen>> {
    if typed.is_empty() {
        let v4 = Listen { addr: (Ipv4Addr::UNSPECIFIED, port).into(), optional: false };
        let v6 = Listen { addr: (Ipv6Addr::UNSPECIFIED, port).into(), optional: true };
        return Ok(vec![v4, v6]);
    }
    typed.iter().map(|s| listen(flag, s)).collect()
}

fn listen(flag: &str, s: &str) -> Result<Listen> {
    match s.parse() {
        Ok(addr) => Ok(Listen { addr, optional: false }),
        Err(_) => Err(Error::new(Kind::Usage, format!("{flag} {s}: not an address with a port"))
            .hint("write it as 0.0.0.0:8080 or [::1]:8080")),
    }
}

fn loopback(s: &str) -> Result<Listen> {
    let listen = listen("--metrics", s)?;
    match listen.addr.ip().is_loopback() {
        true => Ok(listen),
        false => Err(Error::new(Kind::Usage, format!("--metrics {s}: not a loopback address"))
            .hint("whoever reaches it can read it; take 127.0.0.1, and a tunnel or an agent on this machine")),
    }
}

fn switch(flag: &str, typed: Option<&str>, default: bool) -> Result<bool> {
    match typed {
        None => Ok(default),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(s) => Err(Error::new(Kind::Usage, format!("{flag} {s}: on or off"))),
    }
}

fn workers(typed: Option<usize>) -> Result<usize> {
    match typed {
        None => Ok(thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_WORKERS)),
        Some(n) if (1..=MAX_WORKERS).contains(&n) => Ok(n),
        Some(n) => Err(Error::new(Kind::Usage, format!("--workers {n}: there can be 1 to {MAX_WORKERS}"))),
    }
}

/// `address` or `address/bits`.
fn net(s: &str) -> Result<Net> {
    let wrong = || {
        Error::new(Kind::Usage, format!("--trusted-proxy {s}: not an address or network"))
            .hint("write it as 203.0.113.7 or 10.0.0.0/8")
    };
    let (address, bits) = match s.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (s, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => bits.parse().ok().filter(|b| *b <= most).ok_or_else(wrong)?,
    };
    Ok(Net { address, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run { data_dir: Some("/d".into()), socket: Some("/s".into()), ..Run::default() }
    }

    #[test]
    fn listens_on_both_families_by_default_and_can_do_without_the_second() {
        let s = Settings::of(run()).unwrap();
        let shown = |l: &[Listen]| l.iter().map(|l| (l.addr.to_string(), l.optional)).collect::<Vec<_>>();
        assert_eq!(shown(&s.http), [("0.0.0.0:80".into(), false), ("[::]:80".into(), true)]);
        assert_eq!(shown(&s.https), [("0.0.0.0:443".into(), false), ("[::]:443".into(), true)]);
        assert!((1..=DEFAULT_WORKERS).contains(&s.workers));
    }

    #[test]
    fn a_data_dir_is_absolute() {
        let s = Settings::of(Run { data_dir: Some("x".into()), ..run() }).unwrap();
        assert!(s.data_dir.is_absolute() && s.data_dir.ends_with("x"));
    }

    #[test]
    fn reads_addresses_and_networks() {
        let check = |s: &str, expected: Option<u8>| assert_eq!(net(s).ok().map(|n| n.bits), expected, "{s}");
        check("10.0.0.0/8", Some(8));
        check("10.0.0.1", Some(32));
        check("fd00::/8", Some(8));
        check("::1", Some(128));
        check("10.0.0.0/33", None);
        check("10.0.0.0/", None);
        check("host", None);
        check("", None);
    }

    #[test]
    fn lines_are_written_and_numbers_told_only_when_asked() {
        let s = Settings::of(run()).unwrap();
        assert!(s.access_log && s.metrics.is_none());
        let s = Settings::of(Run { access_log: Some("off".into()), metrics: Some("[::1]:9100".into()), ..run() });
        let s = s.unwrap();
        assert_eq!((s.access_log, s.metrics.unwrap().addr), (false, "[::1]:9100".parse().unwrap()));
    }

    #[test]
    fn names_the_flag_that_is_wrong() {
        for (run, flag) in [
            (Run { http: vec!["80".into()], ..run() }, "--http 80"),
            (Run { https: vec!["localhost:443".into()], ..run() }, "--https localhost:443"),
            (Run { workers: Some(0), ..run() }, "--workers 0"),
            (Run { trusted_proxies: vec!["x/8".into()], ..run() }, "--trusted-proxy x/8"),
            (Run { access_log: Some("yes".into()), ..run() }, "--access-log yes"),
            (Run { app_users: Some("some".into()), ..run() }, "--app-users some"),
            (Run { metrics: Some("0.0.0.0:9100".into()), ..run() }, "--metrics 0.0.0.0:9100"),
            (Run { metrics: Some("9100".into()), ..run() }, "--metrics 9100"),
        ] {
            let e = Settings::of(run).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().starts_with(flag), "{e}");
        }
    }
}
