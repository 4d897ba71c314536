//! Mint: keys and self-signed leaves, for names that no authority certifies and for the time until one has.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{Error, Kind, Result};

/// Some clients refuse a leaf that lives longer than 398 days.
pub(crate) const LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);
/// For clients whose clock is behind.
const BACK_DATED: Duration = Duration::from_secs(24 * 3600);
/// Longest common name (RFC 5280, appendix A.1, ub-common-name); a longer host is in the SAN alone.
const MAX_COMMON_NAME: usize = 64;

/// A fresh leaf with its key.
pub(crate) struct Minted {
    pub chain_pem: String,
    pub key_pem: zeroize::Zeroizing<String>,
    pub not_after: SystemTime,
    pub key: Arc<CertifiedKey>,
}

/// A self-signed P-256 certificate for `name`, which is a host or `*.host`.
pub(crate) fn self_signed(name: &str, now: SystemTime) -> Result<Minted> {
    let failed = |e: rcgen::Error| Error::new(Kind::Bug, format!("make a certificate for {name}")).because(e);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    if name.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970.saturating_sub(BACK_DATED);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970 + LIFETIME;
    let cert = params.self_signed(&key).map_err(failed)?;

    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::ring::sign::any_ecdsa_type(&der)
        .map_err(|e| Error::new(Kind::Bug, format!("use the key made for {name}")).because(e))?;
    Ok(Minted {
        chain_pem: cert.pem(),
        key_pem: zeroize::Zeroizing::new(key.serialize_pem()),
        not_after: now + LIFETIME,
        key: Arc::new(CertifiedKey::new(vec![cert.der().clone()], signer)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_leaf_that_fits_its_key_for_hosts_wildcards_and_long_names() {
        let long = format!("{}.{}.test", "a".repeat(60), "b".repeat(60));
        for name in ["shop.test", "*.shop.test", "localhost", &long] {
            let minted = self_signed(name, SystemTime::now()).unwrap();
            minted.key.keys_match().unwrap();
            assert!(minted.chain_pem.starts_with("-----BEGIN CERTIFICATE-----"));
            // The SAN holds the name as it is (an IA5String, RFC 5280 §4.2.1.6).
            let der = &minted.key.cert[0];
            assert!(der.windows(name.len()).any(|w| w == name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn is_trusted_by_a_client_that_pins_it_and_only_for_its_name() {
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier;
        use rustls::pki_types::{ServerName, UnixTime};

        let minted = self_signed("*.shop.test", SystemTime::now()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(minted.key.cert[0].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let ok = |name: &str, at: SystemTime| {
            let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(&minted.key.cert[0], &[], &name, &[], at).is_ok()
        };
        let now = SystemTime::now();
        assert!(ok("a.shop.test", now));
        assert!(ok("a.shop.test", now - Duration::from_secs(3600)));
        assert!(!ok("shop.example", now));
        assert!(!ok("a.shop.test", now + LIFETIME + Duration::from_secs(3600)));
    }
}
