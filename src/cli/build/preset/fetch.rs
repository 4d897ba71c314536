//! Fetch: a preset from the place that the user named, with a copy kept in `~/.tako/presets/`.
//!
//! ```text
//! <base>/<master or the pinned commit>/<runtime>/<name>.toml
//! ```
//! which is how a git host serves the files of a repository. An answer is small and quick or it is none: a deploy does
//! not wait for it.
//!
//! **Invariant**: what was once fetched under a pin is what is ever taken under it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::header;

use super::lock::hash;
use super::{MAX_PRESET, file};
use crate::cli::project::preset_ref::PresetRef;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::net::{self, Patience};
use crate::proto::manifest::Runtime;

/// What an unpinned preset is taken from.
pub(crate) const BRANCH: &str = "master";
/// A copy is a preset in JSON.
const MAX_COPY: u64 = MAX_PRESET * 6 + (16 << 10);
/// Longer ones are no validators.
const MAX_ETAG: usize = 256;

/// There is a fallback for everything but a first pin, so nobody waits long.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(3), silence: Duration::from_secs(3), whole: Duration::from_secs(10) };

/// Where presets are, and where their copies.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    pub base: String,
    /// It is on this machine, over plain HTTP.
    pub plain: bool,
    pub copies: PathBuf,
    pub patience: Patience,
}

/// A preset that was fetched, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copy {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    pub sha256: String,
    pub text: String,
}

impl Shelf {
    /// # Errors
    /// Config when the address is neither `https` nor on this machine.
    pub fn new(base: &str, home: &std::path::Path) -> Result<Shelf> {
        let base = base.trim().trim_end_matches('/');
        let plain = net::is_plain(base).filter(|_| !base.contains(['?', '#'])).ok_or_else(|| {
            Error::new(Kind::Config, format!("`{}` is no place for presets", base.escape_debug()))
                .hint("presets are run: name an https address, or an http one on this machine, without a query")
        })?;
        Ok(Shelf { base: base.into(), plain, copies: home.join("presets"), patience: PATIENCE })
    }

    pub fn url(&self, wanted: &PresetRef, runtime: Runtime) -> String {
        let reference = wanted.pin.as_deref().unwrap_or(BRANCH);
        format!("{}/{reference}/{}/{}.toml", self.base, runtime.as_str(), wanted.name)
    }

    /// The copy of `url`; a bad one is none.
    pub fn copy(&self, url: &str) -> Option<Copy> {
        let bytes = disk::read_if_there(&self.place(url), MAX_COPY).ok()??;
        let copy: Copy = serde_json::from_slice(&bytes).ok()?;
        (copy.url == url && copy.sha256 == hash(&copy.text)).then_some(copy)
    }

    /// Asks for it, and keeps a copy. Under a pin it must be `known` if that is there, and the copy if there is one.
    ///
    /// # Errors
    /// NotFound when the place has none of this name; Refused when it is no preset, or another one under its pin;
    /// Unreachable and Timeout.
    pub fn fetch(&self, wanted: &PresetRef, runtime: Runtime, known: Option<&str>) -> Result<Copy> {
        let url = self.url(wanted, runtime);
        let copy = self.copy(&url);
        let agent = net::agent(&self.patience, self.plain)?;
        let mut request = agent.get(&url);
        if let Some(etag) = copy.as_ref().and_then(|copy| copy.etag.as_deref()) {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let answer = request.call().map_err(|e| net::fault(&url, e))?;
        let fetched = match (answer.status().as_u16(), copy.clone()) {
            (200, _) => self.read(wanted, &url, answer)?,
            // Only to who asked whether it changed.
            (304, Some(copy)) if copy.etag.is_some() => copy,
            (404 | 410, _) => return Err(Error::new(Kind::NotFound, format!("there is no {url}"))),
            (status, _) => return Err(Error::new(Kind::Unreachable, format!("get {url}: it answered {status}"))),
        };
        let seen = copy.as_ref().map(|copy| copy.sha256.as_str());
        if wanted.pin.is_some() && [known, seen].into_iter().flatten().any(|hash| hash != fetched.sha256) {
            return Err(Error::new(Kind::Refused, format!("{url} is not what it was when it was pinned"))
                .hint("what is at a commit never changes: look at who serves it, or pin another commit"));
        }
        if copy.as_ref() != Some(&fetched) {
            self.keep(&fetched)?;
        }
        Ok(fetched)
    }

    fn read(&self, wanted: &PresetRef, url: &str, mut answer: ureq::http::Response<ureq::Body>) -> Result<Copy> {
        let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.filter(|etag| etag.len() <= MAX_ETAG).map(Into::into);
        let refused = |why: &str| Error::new(Kind::Refused, format!("get {url}: {why}"));
        let body = answer.body_mut().with_config().limit(MAX_PRESET).read_to_vec();
        let body = body.map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(_) => refused(&format!("it is larger than {MAX_PRESET} bytes")),
            e => net::fault(url, e),
        })?;
        let text = String::from_utf8(body).map_err(|_| refused("it is not UTF-8"))?;
        file::read(&wanted.name, &text).map_err(|e| refused("it is no preset").because(e))?;
        Ok(Copy { url: url.into(), etag, sha256: hash(&text), text })
    }

    fn keep(&self, copy: &Copy) -> Result<()> {
        disk::make_dirs(&self.copies, 0o700)?;
        let json = serde_json::to_vec(copy).context(|| "describe the preset".into())?;
        disk::write_atomic(&self.place(&copy.url), &json, 0o600)
    }

    fn place(&self, url: &str) -> PathBuf {
        self.copies.join(format!("{}.json", &hash(url)[..32]))
    }
}
