//! Asking others over HTTP: one way to make a client, with all of its limits.
//!
//! The roots that it trusts are those of the system, read at each call: an administrator's change counts at once, and
//! no list of ours grows old. `clippy.toml` forbids the ways around this one.
//!
//! **Invariant**: nothing that is asked here takes longer than its [`Patience`], and what was begun over TLS stays so.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::error::{Error, Kind, Result};

/// Where distributions keep the bundle of certificates: Debian and Alpine, Fedora, SUSE, and what OpenSSL falls back to.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Downloads go through a mirror or two; more is a loop.
const MAX_REDIRECTS: u32 = 5;

/// How long we wait for what.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// For a name, a connection and a handshake.
    pub connect: Duration,
    /// For the next byte.
    pub silence: Duration,
    /// For all of it.
    pub whole: Duration,
}

/// A client for `https` addresses; for `http` ones only where `plain`, which is for loopback.
///
/// # Errors
/// Config when this machine has no root certificates.
pub(crate) fn agent(patience: &Patience, plain: bool) -> Result<Agent> {
    let roots = if plain { Vec::new() } else { roots()? };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .https_only(!plain)
        .http_status_as_error(false)
        .max_redirects(MAX_REDIRECTS)
        .user_agent(concat!("tako/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(patience.whole))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence));
    // A proxy of the environment is for what is elsewhere.
    let config = if plain { config.proxy(None) } else { config };
    Ok(config.build().new_agent())
}

/// Whether an address is asked over plain HTTP, which is for this machine alone: nobody can change what comes over
/// loopback. `None` when it is neither that nor `https`.
pub(crate) fn is_plain(url: &str) -> Option<bool> {
    let rest = |scheme| url.strip_prefix(scheme).filter(|rest: &&str| !rest.is_empty() && !rest.starts_with('/'));
    if rest("https://").is_some() {
        return Some(false);
    }
    let host = rest("http://")?.split('/').next()?;
    // `127.0.0.1:80@elsewhere` is elsewhere.
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:[]-".contains(&b)) {
        return None;
    }
    let host = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    (host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())).then_some(true)
}

/// Why an address could not be asked: Unreachable or Timeout when it may work another time or from elsewhere.
pub(crate) fn fault(url: &str, e: ureq::Error) -> Error {
    let failed = |kind, why: &str| Error::new(kind, format!("get {url}: {why}"));
    match e {
        ureq::Error::HostNotFound => failed(Kind::Unreachable, "its host has no address"),
        ureq::Error::ConnectionFailed => failed(Kind::Unreachable, "the connection failed"),
        ureq::Error::Timeout(_) => failed(Kind::Timeout, "it did not answer in time"),
        ureq::Error::Io(e) if is_timeout(&e) => failed(Kind::Timeout, "it did not answer in time"),
        ureq::Error::Io(e) if is_certificate(&e) => failed(Kind::Refused, &e.to_string()),
        ureq::Error::Io(e) => Error::new(Kind::Unreachable, format!("get {url}")).because(e),
        e => failed(Kind::Refused, &e.to_string()),
    }
}

/// Whether reading a body ended because nothing came.
pub(crate) fn is_timeout(e: &io::Error) -> bool {
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    e.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

fn is_certificate(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

fn roots() -> Result<Vec<Certificate<'static>>> {
    let named = |name: &str| env::var_os(name).map(PathBuf::from);
    let mut found = Vec::new();
    match (named("SSL_CERT_FILE"), named("SSL_CERT_DIR")) {
        (None, None) => {
            if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|p| p.is_file()) {
                read(bundle, &mut found)?;
            }
        }
        (file, dir) => {
            if let Some(file) = file {
                read(&file, &mut found)?;
            }
            for entry in dir.iter().flat_map(fs::read_dir).flatten().flatten() {
                if entry.path().is_file() {
                    read(&entry.path(), &mut found)?;
                }
            }
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => {
            Err(Error::new(Kind::Config, "this machine has no root certificates, so nobody can be trusted over HTTPS")
                .hint("install the package ca-certificates"))
        }
    }
}

/// Adds the certificates of a PEM file; what else is in it is passed over.
fn read(file: &Path, found: &mut Vec<Certificate<'static>>) -> Result<()> {
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|e| Error::new(Kind::Config, format!("read {}: {e}", file.display())))?;
    found.extend(certificates.flatten().map(|der| Certificate::from_der(&der).to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Patience = Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(200),
        whole: Duration::from_secs(10),
    };

    #[test]
    fn says_who_is_not_there_and_who_does_not_answer() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", silent.local_addr().unwrap());
        let agent = agent(&PATIENCE, true).unwrap();
        assert_eq!(fault(&url, agent.get(&url).call().unwrap_err()).kind(), Kind::Timeout);
        drop(silent);
        let e = fault(&url, agent.get(&url).call().unwrap_err());
        assert_eq!(e.kind(), Kind::Unreachable);
        assert!(e.to_string().contains(&url) && e.to_string().contains("refused"), "{e}");
    }

    #[test]
    fn what_must_be_over_tls_is() {
        let Ok(agent) = agent(&PATIENCE, false) else { return }; // no certificates on this machine
        assert!(agent.get("http://127.0.0.1:1/").call().is_err_and(|e| matches!(e, ureq::Error::RequireHttpsOnly(_))));
    }
}
