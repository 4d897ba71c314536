//! What a run finds in place.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use crate::proxy::Settings;
use crate::proxy::certs::{self, Certs};
use crate::proxy::limits::Limits;

pub(super) fn address(place: usize) -> SocketAddr {
    ([127, 0, 0, 1], 4000 + place as u16).into()
}

pub(super) fn settings() -> Settings {
    Settings {
        http: vec![],
        https: vec![],
        workers: 1,
        https_port: None,
        trusted_proxies: vec![],
        limits: Limits::DEFAULT,
        access: None,
    }
}

/// One for all runs: making a key takes longer than a run.
pub(super) fn certificate() -> Arc<Certs> {
    static CERTS: OnceLock<Arc<Certs>> = OnceLock::new();
    let make = || {
        let signed = rcgen::generate_simple_self_signed(["default.test".to_string()]).expect("a key");
        let key = certs::load(signed.cert.pem().as_bytes(), signed.signing_key.serialize_pem().as_bytes());
        Arc::new(Certs { by_name: HashMap::new(), default: key.expect("it was made for it") })
    };
    CERTS.get_or_init(make).clone()
}
