//! The few cryptographic acts we perform ourselves, all by `ring`: one place to move when the library changes.
//!
//! Sealed bytes are `nonce (12) || ciphertext || tag (16)`, AES-256-GCM with a random nonce (NIST SP 800-38D); the
//! associated data binds them to where they belong, so that they cannot be swapped. One key stays far below the
//! 2^32 seals that random nonces allow.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Kind, Result};

pub const KEY_LEN: usize = 32;

/// A symmetric key, wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    pub fn random() -> Result<Key> {
        Ok(Key(Zeroizing::new(random()?)))
    }

    /// `None` unless there are exactly [`KEY_LEN`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        if bytes.len() != KEY_LEN {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Key(key))
    }

    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Encrypts and authenticates `plain`, bound to `bound_to`.
    pub fn seal(&self, plain: &[u8], bound_to: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut body = plain.to_vec();
        if self
            .cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), &mut body)
            .is_err()
        {
            body.zeroize();
            return Err(Error::new(Kind::Bug, "encrypt: the cipher refused"));
        }
        let mut sealed = nonce.to_vec();
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// The reverse of [`Key::seal`]; `None` for a wrong key, other `bound_to` or changed bytes.
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self.cipher().open_in_place(nonce, Aad::from(bound_to), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }

    /// HMAC-SHA-256 of `message` (RFC 2104), as lower-case hex.
    pub fn sign(&self, message: &[u8]) -> String {
        hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.as_bytes()), message).as_ref())
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.as_bytes()).expect("the key has the length of the cipher"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// SHA-256 fed piece by piece.
#[derive(Clone)]
pub struct Sha256(Context);

impl Sha256 {
    pub fn new() -> Self {
        Sha256(Context::new(&SHA256))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The 32 bytes themselves.
    pub fn digest(self) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }

    /// Lower-case hex, 64 characters.
    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// Bytes from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::new(Kind::Io, "read random bytes from the system"))?;
    Ok(bytes)
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_the_same_key_place_and_bytes() {
        let key = Key::random().unwrap();
        let mut sealed = key.seal(b"secret", b"app/production/NAME").unwrap();
        assert_eq!(key.open(&sealed, b"app/production/NAME").unwrap().as_slice(), b"secret");
        assert!(key.open(&sealed, b"app/staging/NAME").is_none());
        assert!(Key::random().unwrap().open(&sealed, b"app/production/NAME").is_none());
        *sealed.last_mut().unwrap() ^= 1;
        assert!(key.open(&sealed, b"app/production/NAME").is_none());
        assert!(key.open(&[0; 5], b"").is_none());
    }

    #[test]
    fn hashes_like_everybody_else() {
        let mut h = Sha256::new();
        h.update(b"a");
        h.update(b"bc");
        // FIPS 180-2, appendix B.1
        assert_eq!(h.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn never_shows_a_key() {
        assert_eq!(format!("{:?}", Key::random().unwrap()), "Key(…)");
    }
}
