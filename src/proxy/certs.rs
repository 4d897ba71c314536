//! Certificates by server name: exact, then one-label wildcard, then the default.
//!
//! What the resolver reads is part of the published table, so a new certificate takes effect with the table's
//! generation and no handshake takes a lock.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::tls;
use crate::error::{Error, Kind, Result};

/// Which key answers to which server name. Immutable; a change is a new `Certs` in the next table.
#[derive(Debug, Clone)]
pub(crate) struct Certs {
    /// By lower-case name, or `*.suffix`.
    pub by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For unknown and absent names, so that the client sees a 404 and not a broken handshake.
    pub default: Arc<CertifiedKey>,
}

/// Reads a PEM chain and its PEM private key, and checks that they belong together.
///
/// # Errors
/// Config, saying which of the two is wrong.
pub(crate) fn load(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>> {
    let fail = |what: &str, hint: &str| Error::new(Kind::Config, what).hint(hint);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|e| fail("the certificate chain is not valid PEM", "write it as PEM, the leaf first").because(e))?;
    if chain.is_empty() {
        return Err(fail("the certificate chain is empty", "write it as PEM, the leaf first"));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| fail("the private key is not valid PEM", "write it as unencrypted PEM").because(e))?;
    CertifiedKey::from_der(chain, key, &tls::provider()).map(Arc::new).map_err(|e| {
        fail("the certificate and the private key cannot be used", "check that they belong together").because(e)
    })
}

impl Certs {
    /// `name` as a client sends it: in any case, and perhaps with the final dot that RFC 6066 §3 leaves out.
    pub fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.by_name.get(&format!("*.{suffix}")));
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or(&self.default, |name| self.find(name)).clone())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A self-signed chain and its key.
    pub(in crate::proxy) fn pem(name: &str) -> (String, String) {
        let signed = rcgen::generate_simple_self_signed([name.to_string()]).unwrap();
        (signed.cert.pem(), signed.signing_key.serialize_pem())
    }

    pub(in crate::proxy) fn key(name: &str) -> Arc<CertifiedKey> {
        let (chain, key) = pem(name);
        load(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    pub(in crate::proxy) fn certs(default: &str) -> Certs {
        Certs { by_name: HashMap::new(), default: key(default) }
    }

    #[test]
    fn finds_exact_then_wildcard_then_default() {
        let mut certs = certs("default.test");
        for name in ["a.b", "*.b"] {
            certs.by_name.insert(name.into(), key(name));
        }
        let check =
            |name: &str, expected: &Arc<CertifiedKey>| assert!(Arc::ptr_eq(certs.find(name), expected), "{name}");
        check("A.b", &certs.by_name["a.b"]);
        check("a.B.", &certs.by_name["a.b"]);
        check("Z.b.", &certs.by_name["*.b"]);
        check("z.b", &certs.by_name["*.b"]);
        check("y.z.b", &certs.default);
        check("b", &certs.default);
    }

    #[test]
    fn loads_only_what_belongs_together() {
        let ((chain, key), (_, other)) = (pem("a.b"), pem("a.b"));
        assert!(load(chain.as_bytes(), key.as_bytes()).is_ok());
        for (chain, key) in [(&chain, &other), (&chain, &chain), (&key, &key), (&"x".to_string(), &key)] {
            assert_eq!(load(chain.as_bytes(), key.as_bytes()).unwrap_err().kind(), Kind::Config);
        }
    }
}
