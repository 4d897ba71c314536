//! Certificates by server name: exact, then one-label wildcard, then the default.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::error::Result;

/// Which key answers to which server name. Immutable; a change is a new `Certs` in the next table.
#[derive(Debug, Clone)]
pub(crate) struct Certs {
    /// By lower-case name, or `*.suffix`.
    pub by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For unknown and absent names, so that the client sees a 404 and not a broken handshake.
    pub default: Arc<CertifiedKey>,
}

/// Reads a PEM chain and its PEM private key, and checks that they belong together.
pub(crate) fn load(_chain: &[u8], _key: &[u8]) -> Result<Arc<CertifiedKey>> {
    unimplemented!()
}
