//! Fetch: a runtime that is nowhere on this machine, from its maker or a mirror.
//!
//! It is laid out in a folder that nobody looks into and gets its place by one rename, when its checksum was right and
//! the program ran.
//!
//! **Invariant**: nothing is unpacked, let alone started, whose checksum was not published and met.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::Agent;

use super::super::layout::Layout;
use super::find;
use super::source::{Pack, Source, sum_of};
use crate::archive::{inflate, unpack};
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::net::{self, Patience};
use crate::proto::manifest::Runtime;

/// Node with all of its libraries takes 60 MB packed; ten times that is no runtime.
const MAX_ARCHIVE: u64 = 600 << 20;
/// What it may take unpacked. Node takes 200 MB.
const MAX_UNPACKED: u64 = 2 << 30;
/// A list of sums has a line for each archive of a release.
const MAX_SUMS: u64 = 1 << 20;
/// So often somebody who waits hears how far it is.
const BEAT: Duration = Duration::from_secs(1);

pub(super) const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(15),
    silence: Duration::from_secs(30),
    // Half a megabyte a second is slow, and enough.
    whole: Duration::from_secs(600),
};

/// What is to be fetched, and from where.
pub(super) struct Wanted<'a> {
    pub layout: &'a Layout,
    pub runtime: Runtime,
    pub version: &'a str,
    pub source: Source,
    pub patience: &'a Patience,
    /// Over plain HTTP, as from a mirror on this machine.
    pub plain: bool,
}

impl Wanted<'_> {
    /// Downloads, verifies, unpacks, tries, and puts it in its place; the path of the program.
    ///
    /// # Errors
    /// Unreachable or Timeout when it may work another time; NotFound when there is no such version; Refused when what
    /// came is not what was published; Interrupted when `gone`; Io. Nothing is left behind then.
    pub fn fetch(&self, said: &mut dyn FnMut(String), gone: &AtomicBool) -> Result<PathBuf> {
        let doing = || format!("download {}", self.name());
        let agent = net::agent(self.patience, self.plain).context(doing)?;
        said(doing());
        let sum = self.published_sum(&agent).context(doing)?;
        let staging = Staging::new(self.layout, &self.name().replace(' ', "-")).context(doing)?;
        let archive = staging.0.join("archive");
        self.download(&agent, &archive, &sum, said, gone).context(doing)?;
        said(format!("unpack {}", self.name()));
        let dir = staging.0.join("tool");
        self.lay_out(&archive, &dir).context(|| format!("unpack {}", self.source.name))?;
        self.check(&dir)?;
        self.place(&dir)
    }

    fn published_sum(&self, agent: &Agent) -> Result<String> {
        let url = &self.source.sums;
        let mut answer = self.get(agent, url)?;
        let list = answer.body_mut().with_config().limit(MAX_SUMS).lossy_utf8(true).read_to_string();
        let list = list.map_err(|e| net::fault(url, e))?;
        sum_of(&list, &self.source.name).ok_or_else(|| {
            Error::new(Kind::Refused, format!("{url} has no checksum of {}", self.source.name))
                .hint("it is not started without one; look at what the mirror holds")
        })
    }

    fn get(&self, agent: &Agent, url: &str) -> Result<ureq::http::Response<ureq::Body>> {
        let answer = agent.get(url).call().map_err(|e| net::fault(url, e))?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            404 | 410 => Err(Error::new(Kind::NotFound, format!("there is no {} at {url}", self.name()))
                .hint("see whether `runtime_version` is one that was released")),
            status => Err(Error::new(Kind::Unreachable, format!("get {url}: it answered {status}"))),
        }
    }

    fn download(
        &self,
        agent: &Agent,
        to: &Path,
        sum: &str,
        said: &mut dyn FnMut(String),
        gone: &AtomicBool,
    ) -> Result<()> {
        let url = &self.source.url;
        let answer = self.get(agent, url)?;
        let announced = answer.body().content_length();
        if announced.is_some_and(|n| n > MAX_ARCHIVE) {
            return Err(too_large(url));
        }
        let mut body = answer.into_body().into_with_config().limit(MAX_ARCHIVE + 1).reader();
        let mut file = disk::create_new(to, 0o600)?;
        let (mut hash, mut count, mut told) = (Sha256::new(), 0, Instant::now());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(cut_short(url, count, announced, e)),
            };
            disk::write_all(&mut file, to, &buffer[..read])?;
            hash.update(&buffer[..read]);
            count += read as u64;
            if gone.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "stopped, because the client went away"));
            }
            if told.elapsed() >= BEAT {
                told = Instant::now();
                said(progress(&self.name(), count, announced));
            }
        }
        if count > MAX_ARCHIVE {
            return Err(too_large(url));
        }
        if hash.finish() != sum {
            let message = format!("{url} is not what was published: the checksum of its {count} bytes is wrong");
            return Err(
                Error::new(Kind::Refused, message).hint("try again; if it stays so, look at what the mirror holds")
            );
        }
        Ok(())
    }

    fn lay_out(&self, archive: &Path, dir: &Path) -> Result<()> {
        let open = || File::open(archive).context(|| format!("read {}", archive.display()));
        open_dir(dir)?;
        match &self.source.pack {
            Pack::Zip(member) => {
                let file = open()?;
                let (mut content, size) = inflate::unzip(&file, member)?;
                if size > MAX_UNPACKED {
                    return Err(Error::new(Kind::Refused, format!("`{member}` takes {size} bytes unpacked")));
                }
                open_dir(&dir.join("bin"))?;
                let program = find::program_in(dir, self.runtime.as_str());
                let mut to = disk::create_new(&program, 0o755)?;
                unpack::copy(&mut content, &mut to).context(|| format!("`{member}`"))?;
                match to.metadata().context(|| format!("read {}", program.display()))?.len() == size {
                    true => Ok(()),
                    false => Err(Error::new(Kind::Refused, format!("`{member}` is not as long as it should be"))),
                }
            }
            Pack::TarGz => {
                let tar = inflate::gunzip(BufReader::new(open()?))?;
                unpack::unpack_tar(tar, dir, MAX_UNPACKED, &below_first)
            }
        }
    }

    /// A build for another machine is better found now than by an app.
    fn check(&self, dir: &Path) -> Result<()> {
        let program = find::program_in(dir, self.runtime.as_str());
        match find::version_of(self.layout, &program) {
            Some(found) if found != self.version => {
                log::warn!("{} says that it is {found} source={}", self.name(), self.source.url);
                Ok(())
            }
            Some(_) => Ok(()),
            None => Err(Error::new(Kind::Refused, format!("{} does not run on this server", self.source.name))
                .hint(format!("put a `{}` that does on the PATH of tako-server", self.runtime.as_str()))),
        }
    }

    fn place(&self, dir: &Path) -> Result<PathBuf> {
        put(self.layout, self.runtime, self.version, dir)
    }

    fn name(&self) -> String {
        format!("{} {}", self.runtime.as_str(), self.version)
    }
}

/// Gives the tool laid out in `dir` its place, durably; the path of its program.
pub(super) fn put(layout: &Layout, runtime: Runtime, version: &str, dir: &Path) -> Result<PathBuf> {
    let place = layout.runtime(runtime.as_str(), version);
    let tools = place.parent().expect("a version is in its tool's folder");
    open_dir(&layout.runtimes())?;
    open_dir(tools)?;
    let syncing = || format!("make {} durable", place.display());
    rustix::fs::syncfs(File::open(dir).context(syncing)?).context(syncing)?;
    // Without a program in it, or we would not be here.
    disk::remove_tree(&place)?;
    disk::rename(dir, &place)?;
    disk::sync_dir(&layout.runtimes())?;
    log::info!("{} {version} is at {}", runtime.as_str(), place.display());
    Ok(find::program_in(&place, runtime.as_str()))
}

/// A folder that every app may look into, whatever our umask.
pub(super) fn open_dir(path: &Path) -> Result<()> {
    disk::make_dirs(path, 0o755)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).context(|| format!("open {} to apps", path.display()))
}

/// Removes what an earlier run of the daemon was fetching when it ended.
pub(super) fn tidy(layout: &Layout) {
    for entry in fs::read_dir(layout.runtimes()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(STAGING) {
            match disk::remove_tree(&entry.path()) {
                Ok(()) => log::info!("removed {}, left over", entry.path().display()),
                Err(e) => log::warn!("{e}"),
            }
        }
    }
}

const STAGING: &str = ".staging";

/// A folder of our own beside the tools; it goes with its value.
pub(super) struct Staging(pub PathBuf);

impl Staging {
    pub fn new(layout: &Layout, name: &str) -> Result<Staging> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        open_dir(&layout.runtimes())?;
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            // The daemon holds the data folder, and what an earlier one left was removed at its start.
            let path = layout.runtimes().join(format!(".{name}.{n}{STAGING}"));
            if fs::symlink_metadata(&path).is_err() {
                disk::make_dirs(&path, 0o700)?;
                return Ok(Staging(path));
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = disk::remove_tree(&self.0) {
            log::warn!("{e}");
        }
    }
}

/// `node-v22.1.0-linux-x64/bin/node` is `bin/node`; headers are for compilers, of which a server has none.
fn below_first(path: PathBuf) -> Option<PathBuf> {
    let mut parts = path.components();
    parts.next();
    let rest = parts.as_path();
    (!rest.as_os_str().is_empty() && !rest.starts_with("include")).then(|| rest.to_owned())
}

fn progress(name: &str, count: u64, of: Option<u64>) -> String {
    let mb = |bytes: u64| bytes / 1_000_000;
    match of {
        Some(of) => format!("download {name}, {} of {} MB", mb(count), mb(of)),
        None => format!("download {name}, {} MB", mb(count)),
    }
}

fn cut_short(url: &str, count: u64, of: Option<u64>, e: io::Error) -> Error {
    let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
    match net::is_timeout(&e) {
        true => Error::new(Kind::Timeout, format!("get {url}: it fell silent after {count}{of} bytes")),
        false => {
            let doing = format!("get {url}: it ended after {count}{of} bytes");
            Error::new(Kind::Unreachable, doing).because(e)
        }
    }
}

fn too_large(url: &str) -> Error {
    Error::new(Kind::Refused, format!("{url} is larger than {MAX_ARCHIVE} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_how_far_it_is_in_megabytes() {
        assert_eq!(progress("bun 1.3.0", 12_300_000, Some(34_900_000)), "download bun 1.3.0, 12 of 34 MB");
        assert_eq!(progress("bun 1.3.0", 12_300_000, None), "download bun 1.3.0, 12 MB");
    }

    #[test]
    fn what_lies_in_the_one_folder_comes_out_of_it() {
        let check =
            |from: &str, to: Option<&str>| assert_eq!(below_first(from.into()), to.map(PathBuf::from), "{from}");
        check("node-v22.1.0-linux-x64", None);
        check("node-v22.1.0-linux-x64/bin/node", Some("bin/node"));
        check("node-v22.1.0-linux-x64/include/node/node.h", None);
        check("node-v22.1.0-linux-x64/../x", Some("../x"));
    }
}
