//! Stream: the build tree as a tar, into a container and back. What comes back was made by an image and a build that we
//! do not have to trust.
//!
//! **Invariant**: nothing is written outside the folder it is unpacked into. Names are plain and relative, a second name
//! of a file is a copy of what we wrote ourselves, symlinks are made last and none leads out; so no path that is written
//! or read here goes through a link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tar::EntryType;

use crate::archive::bounds::{check_link, check_name};
use crate::cli::build::bundle::is_dropped;
use crate::error::{Context, Error, Kind, Result};

/// Bytes that come out of a container, and bytes that are written of them: a build that leaves more has gone wrong.
const MAX_BYTES: u64 = 32 << 30;
/// A build tree with its packages has some hundred thousand.
const MAX_ENTRIES: usize = 2_000_000;
/// A record about an entry: a name, or a list of attributes.
const MAX_RECORD: u64 = 1 << 20;

/// What of a container's tree is of use.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Whether anything below a folder is.
    pub enters: &'a (dyn Fn(&Path) -> bool + Sync),
    /// Whether a file or link will be shipped, so that it may not be left out.
    pub ships: &'a (dyn Fn(&Path) -> bool + Sync),
}

/// Writes all of `tree` as a tar below the absolute path `root`. Packages that are linked from the user's tree, and what
/// is kept of earlier builds beside the sources, stay here: they are for this machine.
pub(super) fn pack(tree: &Path, root: &str, to: &mut dyn Write) -> Result<()> {
    let root = Path::new(root.trim_start_matches('/'));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut tar = tar::Builder::new(to);
    let parents: Vec<&Path> = root.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()).collect();
    for folder in parents.into_iter().rev() {
        tar.append_data(&mut header(EntryType::Directory, 0o755, now), folder, io::empty()).context(writing)?;
    }
    pack_folder(&mut tar, tree, Path::new(""), root, now)?;
    tar.into_inner().context(writing)?;
    Ok(())
}

fn pack_folder(tar: &mut tar::Builder<&mut dyn Write>, tree: &Path, below: &Path, root: &Path, now: u64) -> Result<()> {
    let dir = tree.join(below);
    tar.append_data(&mut header(EntryType::Directory, 0o755, now), joined(root, below), io::empty())
        .context(writing)?;
    let entries = fs::read_dir(&dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut names: Vec<_> =
        entries.context(|| format!("read {}", dir.display()))?.iter().map(|e| e.file_name()).collect();
    names.sort();
    for path in names.into_iter().map(|name| below.join(name)) {
        if is_dropped(&path) {
            continue;
        }
        let (full, inside) = (tree.join(&path), root.join(&path));
        let reading = || format!("read {}", full.display());
        let found = full.symlink_metadata().context(reading)?;
        if found.is_dir() {
            pack_folder(tar, tree, &path, root, now)?;
        } else if found.is_symlink() {
            let target = fs::read_link(&full).context(reading)?;
            tar.append_link(&mut header(EntryType::Symlink, 0o777, now), &inside, &target).context(writing)?;
        } else if found.is_file() {
            let mode = if found.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            let mut header = header(EntryType::Regular, mode, now);
            header.set_size(found.len());
            // It is our own copy: nobody changes its length.
            let file = File::open(&full).context(reading)?;
            tar.append_data(&mut header, &inside, file.take(found.len())).context(writing)?;
        }
    }
    Ok(())
}

fn header(kind: EntryType, mode: u32, now: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // Not the epoch: there are tools that know no year before 1980.
    header.set_mtime(now);
    header.set_size(0);
    header
}

fn joined(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.into() } else { root.join(below) }
}

fn writing() -> String {
    "write to docker".into()
}

/// Unpacks into the empty folder `into` what a tar has below the folder `root`, as far as it is wanted. `false` when a
/// wanted file is a second name of one that was not, and is therefore missing.
///
/// # Errors
/// Refused for what would leave the folder, is malformed, or is too much; Io.
pub(super) fn unpack(from: &mut dyn Read, root: &str, into: &Path, wanted: &Wanted<'_>) -> Result<bool> {
    let mut unpacking = Unpacking {
        into,
        wanted,
        folders: BTreeSet::new(),
        links: Vec::new(),
        entries: 0,
        left: MAX_BYTES,
        complete: true,
    };
    let mut stream = from.take(MAX_BYTES);
    unpacking.all(&mut stream, root)?;
    // What follows the end of the archive is padding.
    io::copy(&mut stream, &mut io::sink()).map_err(damaged)?;
    if stream.limit() == 0 {
        return Err(too_much());
    }
    for (path, target) in unpacking.links {
        symlink(&target, into.join(&path)).context(|| format!("create the link {}", path.display()))?;
    }
    Ok(unpacking.complete)
}

struct Unpacking<'a> {
    into: &'a Path,
    wanted: &'a Wanted<'a>,
    /// That we made, beside `into` itself.
    folders: BTreeSet<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    entries: usize,
    /// Bytes that may still be written.
    left: u64,
    complete: bool,
}

impl Unpacking<'_> {
    fn all(&mut self, stream: &mut impl Read, root: &str) -> Result<()> {
        let mut tar = tar::Archive::new(stream);
        let (mut name, mut link) = (None, None);
        // Raw, because the crate would read records of any size into memory for us.
        for entry in tar.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(too_much());
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => name = Some(text(record(&mut entry)?)),
                EntryType::GNULongLink => link = Some(text(record(&mut entry)?)),
                EntryType::XHeader => {
                    let record = record(&mut entry)?;
                    for extension in tar::PaxExtensions::new(&record) {
                        let extension = extension.map_err(damaged)?;
                        match extension.key_bytes() {
                            b"path" => name = Some(extension.value_bytes().to_vec()),
                            b"linkpath" => link = Some(extension.value_bytes().to_vec()),
                            // Beyond 8 GiB a size does not fit its field.
                            b"size" => return Err(too_much()),
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => {}
                kind => {
                    let name = name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = link.take().or_else(|| entry.link_name_bytes().map(|l| l.into_owned()));
                    let Some(path) = below(&name, root)? else { continue };
                    let about = || format!("`{}` in the container", path.display().to_string().escape_debug());
                    self.add(&mut entry, kind, &path, link.as_deref().unwrap_or_default(), root).context(about)?;
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        link: &[u8],
        root: &str,
    ) -> Result<()> {
        let folder = if kind == EntryType::Directory { path } else { path.parent().unwrap_or(Path::new("")) };
        if !folder.ancestors().all(|f| f.as_os_str().is_empty() || (self.wanted.enters)(f)) {
            return Ok(());
        }
        self.folder(folder)?;
        let full = self.into.join(path);
        match kind {
            EntryType::Directory => Ok(()),
            EntryType::Regular | EntryType::Continuous => {
                let mode = entry.header().mode().map_err(damaged)?;
                let size = entry.size();
                self.spend(size)?;
                let mut file = create(&full)?;
                let copied = io::copy(entry, &mut file).context(|| "write it".into())?;
                if copied != size {
                    return Err(Error::new(Kind::Refused, "it is cut short"));
                }
                allow(&file, mode)
            }
            EntryType::Link => match below(link, root)?.map(|first| self.into.join(first)) {
                Some(first) if first.symlink_metadata().is_ok_and(|m| m.is_file()) => {
                    let mut from = File::open(&first).context(|| "read its other name".into())?;
                    let found = from.metadata().context(|| "read its other name".into())?;
                    self.spend(found.len())?;
                    let mut file = create(&full)?;
                    io::copy(&mut from, &mut file).context(|| "write it".into())?;
                    allow(&file, found.permissions().mode())
                }
                _ => {
                    self.complete = false;
                    Ok(())
                }
            },
            EntryType::Symlink => {
                let target = PathBuf::from(OsStr::from_bytes(link));
                match check_link(path, &target) {
                    Ok(()) => self.links.push((path.into(), target)),
                    Err(why) if (self.wanted.ships)(path) => return Err(Error::new(Kind::Refused, why)),
                    // An interpreter in an environment of its own, say: good in there, of no use here.
                    Err(_) => {}
                }
                Ok(())
            }
            // Pipes, sockets and devices are of no use anywhere else.
            _ => Ok(()),
        }
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        fs::create_dir(self.into.join(path)).context(|| "create the folder".into())?;
        self.folders.insert(path.into());
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(too_much)?;
        Ok(())
    }
}

/// The path below `root`; `None` for what is `root` itself.
fn below(name: &[u8], root: &str) -> Result<Option<PathBuf>> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let path = Path::new(OsStr::from_bytes(name));
    let checked = check_name(path).and_then(|()| path.strip_prefix(root).map_err(|_| "it is elsewhere".into()));
    match checked {
        Ok(path) if path.as_os_str().is_empty() => Ok(None),
        Ok(path) => Ok(Some(path.into())),
        Err(why) => {
            let message = format!("`{}` in the container: {why}", path.display().to_string().escape_debug());
            Err(Error::new(Kind::Refused, message))
        }
    }
}

/// Never one that is there, and never through a link.
fn create(path: &Path) -> Result<File> {
    let created = File::options().write(true).create_new(true).mode(0o600).open(path);
    created.context(|| "create it".into())
}

fn allow(file: &File, mode: u32) -> Result<()> {
    let mode = if mode & 0o111 != 0 { 0o755 } else { 0o644 };
    file.set_permissions(Permissions::from_mode(mode)).context(|| "set its mode".into())
}

fn record(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_RECORD + 1).read_to_end(&mut bytes).map_err(damaged)?;
    match bytes.len() as u64 > MAX_RECORD {
        true => Err(Error::new(Kind::Refused, "the container's files have names or attributes beyond all measure")),
        false => Ok(bytes),
    }
}

/// A path and a zero byte.
fn text(mut record: Vec<u8>) -> Vec<u8> {
    if record.last() == Some(&0) {
        record.pop();
    }
    record
}

fn too_much() -> Error {
    Error::new(Kind::Refused, format!("the container holds more than {} GiB or {MAX_ENTRIES} files", MAX_BYTES >> 30))
        .hint("does the build leave something large behind? what it removes at its end is not copied")
}

fn damaged(e: io::Error) -> Error {
    Error::new(Kind::Refused, "what docker sent is damaged").because(e)
}
