//! The certificate folder: which key a host is served with.
//!
//! A folder `certs/<host>/` (or `certs/*.<host>/`) holds `chain.pem` and `key.pem`. What a user puts there is used,
//! for the host itself or as a wildcard one label up; else a self-signed one is made and kept there beside a file
//! `self-signed`, which says until when it is good and the hash of the chain it speaks of.
//!
//! **Invariant**: a chain that does not have the hash of our marker is the user's, and is never overwritten or removed.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;

use super::layout::Layout;
use super::mint;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::Result;
use crate::proto::route::Route;
use crate::proxy::certs::load;

/// A self-signed certificate is made anew when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// No chain of certificates that a handshake can carry is larger.
const MAX_PEM: u64 = 256 << 10;
/// The name in the certificate for clients that ask for no name, or one that nobody here answers to.
const NO_NAME: &str = "tako.invalid";

pub(crate) struct Folder {
    layout: Arc<Layout>,
    cache: Mutex<HashMap<String, Cached>>,
    /// Held over reading and writing, unlike any other lock: two apps on one host must not write two halves of two
    /// pairs. Nobody who serves waits for it; [`Folder::key`] meets the cache first.
    disk: Mutex<()>,
    fallback: Arc<CertifiedKey>,
}

struct Cached {
    key: Arc<CertifiedKey>,
    /// Of what lay in the folder when the key was made of it.
    seen: String,
}

/// What lies in a folder.
enum Found {
    Nothing,
    Ours {
        until: SystemTime,
        chain: Vec<u8>,
        key: Vec<u8>,
    },
    Yours {
        chain: Vec<u8>,
        key: Vec<u8>,
    },
    /// The user's, but not usable; why.
    Broken(String),
}

/// The name under which a route's certificate is kept and found.
pub(crate) fn name_of(route: &Route) -> String {
    match route.is_wildcard() {
        true => format!("*.{}", route.host()),
        false => route.host().to_owned(),
    }
}

impl Folder {
    pub fn open(layout: Arc<Layout>) -> Result<Self> {
        let fallback = mint::self_signed(NO_NAME, SystemTime::now())?.key;
        Ok(Folder { layout, cache: Mutex::default(), disk: Mutex::default(), fallback })
    }

    /// For names that have none of their own.
    pub fn fallback(&self) -> &Arc<CertifiedKey> {
        &self.fallback
    }

    /// The key for `name` as last seen; the disk is looked at only for a name that is new.
    pub fn key(&self, name: &str) -> Arc<CertifiedKey> {
        let cached = self.cached().get(name).map(|c| c.key.clone());
        cached.unwrap_or_else(|| self.refresh(name, SystemTime::now()))
    }

    /// Looks at the disk again, and makes or renews a self-signed certificate where that is what serves.
    pub fn refresh(&self, name: &str, now: SystemTime) -> Arc<CertifiedKey> {
        let _disk = self.disk.lock().unwrap_or_else(|e| e.into_inner());
        let found = self.find(name);
        let seen = found.fingerprint();
        let known = self.cached().get(name).filter(|c| c.seen == seen).map(|c| c.key.clone());
        let (key, seen) = match (known, &found) {
            (_, Found::Ours { until, .. }) if *until < now + RENEW_BEFORE => self.make(name, now),
            (Some(key), _) => return key,
            (None, Found::Nothing) => self.make(name, now),
            (None, Found::Ours { chain, key, .. }) => match load(chain, key) {
                Ok(key) => (key, seen),
                Err(_) => self.make(name, now),
            },
            (None, Found::Yours { chain, key }) => match load(chain, key) {
                Ok(key) => {
                    log::info!("certificate host={name} from=files");
                    (key, seen)
                }
                Err(e) => (self.stand_in(name, now, &e.to_string()), seen),
            },
            (None, Found::Broken(why)) => (self.stand_in(name, now, why), seen),
        };
        self.cached().insert(name.to_owned(), Cached { key: key.clone(), seen });
        key
    }

    /// Why the files that the user put there for `name` are not what it is served with.
    pub fn problem(&self, name: &str) -> Option<String> {
        match self.find(name) {
            Found::Broken(why) => Some(why),
            Found::Yours { chain, key } => load(&chain, &key).err().map(|e| e.to_string()),
            Found::Nothing | Found::Ours { .. } => None,
        }
    }

    /// Lets go of all names that nobody serves any more; files stay.
    pub fn keep_only(&self, names: &BTreeSet<String>) {
        self.cached().retain(|name, _| names.contains(name));
    }

    /// Removes what was made for `name`; a user's files stay.
    pub fn remove(&self, name: &str) {
        let _disk = self.disk.lock().unwrap_or_else(|e| e.into_inner());
        self.cached().remove(name);
        let dir = self.dir(name);
        if matches!(read(&dir), Found::Ours { .. })
            && let Err(e) = disk::remove_tree(&dir)
        {
            log::warn!("certificate host={name} left behind: {e}");
        }
    }

    /// In the name's own folder, else the user's wildcard one label up.
    fn find(&self, name: &str) -> Found {
        let own = read(&self.dir(name));
        if matches!(own, Found::Yours { .. } | Found::Broken(_)) || name.starts_with("*.") {
            return own;
        }
        match name.split_once('.').map(|(_, parent)| read(&self.dir(&format!("*.{parent}")))) {
            Some(wildcard @ Found::Yours { .. }) => wildcard,
            _ => own,
        }
    }

    /// A new self-signed certificate, kept on disk if the disk lets us.
    fn make(&self, name: &str, now: SystemTime) -> (Arc<CertifiedKey>, String) {
        let minted = match mint::self_signed(name, now) {
            Ok(minted) => minted,
            Err(e) => {
                log::error!("certificate host={name} cannot be made: {e}");
                return (self.fallback.clone(), String::new());
            }
        };
        let found = Found::Ours {
            until: minted.not_after,
            chain: minted.chain_pem.clone().into_bytes(),
            key: minted.key_pem.as_bytes().to_vec(),
        };
        match self.write(name, &minted) {
            Ok(()) => log::info!("certificate host={name} from=self-signed"),
            Err(e) => log::warn!("certificate host={name} is not kept: {e}"),
        }
        (minted.key, found.fingerprint())
    }

    /// For a name whose files are the user's to repair; nothing is written.
    fn stand_in(&self, name: &str, now: SystemTime, why: &str) -> Arc<CertifiedKey> {
        log::warn!("certificate host={name} from=self-signed because its files are not usable: {why}");
        mint::self_signed(name, now).map_or_else(|_| self.fallback.clone(), |minted| minted.key)
    }

    /// The three files appear together: a crash leaves the folder whole or absent.
    fn write(&self, name: &str, minted: &mint::Minted) -> Result<()> {
        let dir = self.dir(name);
        let fresh = self.dir(&format!(".{name}.new"));
        disk::remove_tree(&fresh)?;
        disk::private_dir(&fresh)?;
        let until = minted.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let marker = format!("{until} {}\n", sha256(minted.chain_pem.as_bytes()));
        disk::write_atomic(&fresh.join("chain.pem"), minted.chain_pem.as_bytes(), 0o644)?;
        disk::write_atomic(&fresh.join("key.pem"), minted.key_pem.as_bytes(), 0o600)?;
        disk::write_atomic(&fresh.join("self-signed"), marker.as_bytes(), 0o644)?;
        disk::remove_tree(&dir)?;
        disk::rename(&fresh, &dir)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.layout.certs().join(name)
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<String, Cached>> {
        self.cache.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Found {
    fn fingerprint(&self) -> String {
        match self {
            Found::Nothing => String::new(),
            Found::Broken(why) => why.clone(),
            Found::Ours { chain, key, .. } | Found::Yours { chain, key } => sha256(chain) + &sha256(key),
        }
    }
}

fn read(dir: &Path) -> Found {
    let file = |name| disk::read_if_there(&dir.join(name), MAX_PEM);
    match (file("chain.pem"), file("key.pem"), file("self-signed")) {
        (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) => Found::Broken(e.to_string()),
        (Ok(None), Ok(None), _) => Found::Nothing,
        (Ok(None), ..) => Found::Broken(format!("{} has no chain.pem", dir.display())),
        (_, Ok(None), _) => Found::Broken(format!("{} has no key.pem", dir.display())),
        (Ok(Some(chain)), Ok(Some(key)), Ok(marker)) => match marker.and_then(|m| until(&m, &chain)) {
            Some(until) => Found::Ours { until, chain, key },
            None => Found::Yours { chain, key },
        },
    }
}

/// Until when our certificate is good, if `marker` speaks of this `chain`.
fn until(marker: &[u8], chain: &[u8]) -> Option<SystemTime> {
    let (seconds, hash) = std::str::from_utf8(marker).ok()?.trim_end().split_once(' ')?;
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?;
    (hash == sha256(chain)).then_some(until)
}

fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(Arc::new(Layout::new(dir.path().into()))).unwrap();
        (dir, folder)
    }

    fn end_of(folder: &Folder, name: &str) -> SystemTime {
        match read(&folder.dir(name)) {
            Found::Ours { until, .. } => until,
            _ => panic!("not ours"),
        }
    }

    #[test]
    fn only_files_of_the_users_that_cannot_be_used_are_a_problem() {
        let (_dir, folder) = folder();
        assert_eq!(folder.problem("shop.test"), None);
        folder.key("shop.test");
        assert_eq!(folder.problem("shop.test"), None);
        let dir = folder.dir("yours.test");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("chain.pem"), "nothing").unwrap();
        assert!(folder.problem("yours.test").unwrap().ends_with("has no key.pem"));
        fs::write(dir.join("key.pem"), "nothing").unwrap();
        assert!(folder.problem("yours.test").is_some());
    }

    #[test]
    fn makes_a_pair_once_and_keeps_its_key_private() {
        let (_dir, folder) = folder();
        let one = folder.key("shop.test");
        assert!(Arc::ptr_eq(&one, &folder.key("shop.test")));
        assert!(Arc::ptr_eq(&one, &folder.refresh("shop.test", SystemTime::now())));
        let key = folder.dir("shop.test").join("key.pem");
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn renews_its_own_a_month_before_the_end() {
        let (_dir, folder) = folder();
        let now = SystemTime::now();
        let one = folder.refresh("shop.test", now);
        let end = end_of(&folder, "shop.test");
        assert!(Arc::ptr_eq(&one, &folder.refresh("shop.test", end - RENEW_BEFORE - Duration::from_secs(1))));
        let two = folder.refresh("shop.test", end - RENEW_BEFORE + Duration::from_secs(1));
        assert!(!Arc::ptr_eq(&one, &two));
        assert!(end_of(&folder, "shop.test") > end);
    }

    #[test]
    fn takes_the_pair_that_a_user_puts_there_and_never_touches_it() {
        let (_dir, folder) = folder();
        folder.key("shop.test");
        let yours = mint::self_signed("shop.test", SystemTime::now()).unwrap();
        let dir = folder.dir("shop.test");
        fs::write(dir.join("chain.pem"), &yours.chain_pem).unwrap();
        fs::write(dir.join("key.pem"), yours.key_pem.as_bytes()).unwrap();
        let far = SystemTime::now() + mint::LIFETIME * 2;
        assert_eq!(folder.refresh("shop.test", far).cert, yours.key.cert);
        folder.remove("shop.test");
        assert_eq!(fs::read_to_string(dir.join("chain.pem")).unwrap(), yours.chain_pem);
    }

    #[test]
    fn takes_a_users_wildcard_one_label_up() {
        let (_dir, folder) = folder();
        let yours = mint::self_signed("*.shop.test", SystemTime::now()).unwrap();
        let dir = folder.dir("*.shop.test");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("chain.pem"), &yours.chain_pem).unwrap();
        fs::write(dir.join("key.pem"), yours.key_pem.as_bytes()).unwrap();
        assert_eq!(folder.key("a.shop.test").cert, yours.key.cert);
        assert_ne!(folder.key("a.b.shop.test").cert, yours.key.cert);
    }

    #[test]
    fn stands_in_for_half_a_pair_without_writing_over_it() {
        let (_dir, folder) = folder();
        let dir = folder.dir("shop.test");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("chain.pem"), "mine").unwrap();
        let one = folder.refresh("shop.test", SystemTime::now());
        assert!(Arc::ptr_eq(&one, &folder.refresh("shop.test", SystemTime::now())));
        assert_eq!(fs::read(dir.join("chain.pem")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn removes_what_it_made() {
        let (_dir, folder) = folder();
        folder.key("shop.test");
        folder.remove("shop.test");
        assert!(!folder.dir("shop.test").exists());
    }
}
