//! Native: which machines the compiled files of an artifact are for. Scripts run anywhere; a program or a library that
//! was compiled for another processor or C library does not, and a server should hear of it before anything changes.
//!
//! Only ELF headers are looked at, and only those of files that could be run or loaded. What cannot be understood
//! counts as a script: this is a courtesy, and the health check of a deploy has the last word.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::proto::target::{Arch, Libc, Target};

/// Program headers of a real file are a dozen.
const MAX_HEADERS: u16 = 128;
/// Entries of a dynamic section that are looked at; a large program has a hundred.
const MAX_DYNAMIC: u64 = 1024;
/// The longest name of a loader or library that is read.
const MAX_NAME: usize = 256;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// A compiled file, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Native {
    pub file: String,
    pub arch: Arch,
    /// `None` for a file that brings its own, or needs none.
    pub libc: Option<Libc>,
}

impl Native {
    fn runs_on(&self, target: Target) -> bool {
        self.arch == target.arch && self.libc.is_none_or(|libc| libc == target.libc)
    }

    /// `linux-x86_64`, or with its C library.
    pub fn machine(&self) -> String {
        match self.libc {
            Some(libc) => Target { arch: self.arch, libc }.to_string(),
            None => format!("linux-{}", self.arch),
        }
    }
}

/// The first file of each kind among `files`, which lie below `root`. Where `main` is compiled, it alone: nothing else
/// matters when that does not run.
pub(crate) fn of(root: &Path, files: &[PathBuf], main: &Path) -> Vec<Native> {
    if let Some(native) = read(root, main) {
        return vec![native];
    }
    let mut found: Vec<Native> = Vec::new();
    for file in files.iter().filter(|file| may_be_loaded(root, file)) {
        if let Some(native) = read(root, file)
            && !found.iter().any(|n| (n.arch, n.libc) == (native.arch, native.libc))
        {
            found.push(native);
        }
    }
    found
}

/// The file that speaks against `target`. Packages often bring one file per platform: then one that fits is enough.
pub(crate) fn misfit(natives: &[Native], target: Target) -> Option<&Native> {
    match natives.iter().any(|native| native.runs_on(target)) {
        true => None,
        false => natives.first(),
    }
}

fn may_be_loaded(root: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().as_bytes();
    name.ends_with(b".node")
        || memchr::memmem::find(name, b".so").is_some()
        || root.join(file).symlink_metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn read(root: &Path, file: &Path) -> Option<Native> {
    let path = root.join(file);
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let (arch, libc) = elf(&File::open(path).ok()?)?;
    Some(Native { file: file.display().to_string(), arch, libc })
}

/// The parts of the ELF-64 format, little-endian, that say what a file runs on.
fn elf(file: &File) -> Option<(Arch, Option<Libc>)> {
    const EXECUTABLE: u16 = 2;
    const SHARED: u16 = 3;
    let head: [u8; HEADER] = at(file, 0)?;
    if head[..6] != [0x7f, b'E', b'L', b'F', 2, 1] || !matches!(u16_at(&head, 16), EXECUTABLE | SHARED) {
        return None;
    }
    let arch = match u16_at(&head, 18) {
        62 => Arch::X86_64,
        183 => Arch::Aarch64,
        _ => return None,
    };
    Some((arch, libc(file, u64_at(&head, 32), u16_at(&head, 56))))
}

/// By its loader, else by the C library among those it needs.
fn libc(file: &File, offset: u64, count: u16) -> Option<Libc> {
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    const INTERPRETER: u32 = 3;
    let headers: Vec<[u8; PROGRAM_HEADER]> = (0..u64::from(count.min(MAX_HEADERS)))
        .map_while(|n| at(file, offset.checked_add(n * PROGRAM_HEADER as u64)?))
        .collect();
    let of_kind = |kind: u32| headers.iter().filter(move |header| header[..4] == kind.to_le_bytes());
    if let Some(header) = of_kind(INTERPRETER).next() {
        return libc_of(&name(file, u64_at(header, 8))?);
    }
    let dynamic = of_kind(DYNAMIC).next()?;
    let (start, length) = (u64_at(dynamic, 8), u64_at(dynamic, 32));
    let entries: Vec<(u64, u64)> = (0..(length / 16).min(MAX_DYNAMIC))
        .map_while(|n| at::<16>(file, start.checked_add(n * 16)?))
        .map(|entry| (u64_at(&entry, 0), u64_at(&entry, 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let address = entries.iter().find(|(tag, _)| *tag == 5)?.1;
    // The table of names is given by its address in memory.
    let table = of_kind(LOAD).find_map(|header| {
        let into = address.checked_sub(u64_at(header, 16))?;
        (into < u64_at(header, 32)).then(|| u64_at(header, 8).checked_add(into))?
    })?;
    let needed = entries.iter().filter(|(tag, _)| *tag == 1);
    needed.filter_map(|(_, at)| name(file, table.checked_add(*at)?)).find_map(|name| libc_of(&name))
}

/// `ld-linux-x86-64.so.2`, `libc.so.6`; `ld-musl-x86_64.so.1`, `libc.musl-x86_64.so.1`, `libc.so`.
fn libc_of(name: &[u8]) -> Option<Libc> {
    let name = name.rsplit(|&b| b == b'/').next().unwrap_or(name);
    match name {
        b"libc.so.6" => Some(Libc::Glibc),
        b"libc.so" => Some(Libc::Musl),
        _ if name.starts_with(b"ld-linux") => Some(Libc::Glibc),
        _ if name.starts_with(b"ld-musl-") || name.starts_with(b"libc.musl-") => Some(Libc::Musl),
        _ => None,
    }
}

fn at<const N: usize>(file: &File, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// Up to its zero byte.
fn name(file: &File, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; MAX_NAME];
    let read = file.read_at(&mut bytes, offset).ok()?;
    let end = bytes[..read].iter().position(|&b| b == 0)?;
    bytes.truncate(end);
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An ELF file with an interpreter, or else with one library that it needs.
    fn elf_file(machine: u16, interpreter: Option<&str>, needed: Option<&str>) -> Vec<u8> {
        let mut file = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        put(16, &3_u16.to_le_bytes());
        put(18, &machine.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(56, &3_u16.to_le_bytes());
        // All of the file at 0x1000.
        put(64, &1_u32.to_le_bytes());
        put(64 + 16, &0x1000_u64.to_le_bytes());
        put(64 + 32, &1024_u64.to_le_bytes());
        if let Some(interpreter) = interpreter {
            put(120, &3_u32.to_le_bytes());
            put(120 + 8, &512_u64.to_le_bytes());
            put(512, interpreter.as_bytes());
        }
        if let Some(needed) = needed {
            put(176, &2_u32.to_le_bytes());
            put(176 + 8, &640_u64.to_le_bytes());
            put(176 + 32, &48_u64.to_le_bytes());
            for (n, (tag, value)) in [(1_u64, 1_u64), (5, 0x1000 + 768)].into_iter().enumerate() {
                put(640 + 16 * n, &tag.to_le_bytes());
                put(640 + 16 * n + 8, &value.to_le_bytes());
            }
            put(769, needed.as_bytes());
        }
        file
    }

    fn found(bytes: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.node"), bytes).unwrap();
        of(dir.path(), &["x.node".into()], Path::new("index.js")).first().map(Native::machine)
    }

    #[test]
    fn tells_processor_and_c_library() {
        let check = |file: &[u8], expected: Option<&str>| assert_eq!(found(file).as_deref(), expected);
        check(&elf_file(62, Some("/lib64/ld-linux-x86-64.so.2"), None), Some("linux-x86_64-glibc"));
        check(&elf_file(183, Some("/lib/ld-linux-aarch64.so.1"), None), Some("linux-aarch64-glibc"));
        check(&elf_file(62, Some("/lib/ld-musl-x86_64.so.1"), None), Some("linux-x86_64-musl"));
        check(&elf_file(62, None, Some("libc.so.6")), Some("linux-x86_64-glibc"));
        check(&elf_file(183, None, Some("libc.musl-aarch64.so.1")), Some("linux-aarch64-musl"));
        check(&elf_file(62, None, Some("libm.so.6")), Some("linux-x86_64"));
        check(&elf_file(62, None, None), Some("linux-x86_64"));
        check(&elf_file(243, None, None), None);
        check(b"#!/bin/sh\n", None);
    }

    #[test]
    fn no_file_makes_it_stumble() {
        let whole = elf_file(62, Some("/lib64/ld-linux-x86-64.so.2"), Some("libc.so.6"));
        for length in 0..whole.len() {
            found(&whole[..length]);
        }
        // Every field of the headers as large as it gets.
        for at in 0..256 {
            let mut file = whole.clone();
            file[at..at + 8].fill(0xff);
            found(&file);
        }
    }

    #[test]
    fn the_tests_themselves_are_for_this_machine() {
        let program = std::env::current_exe().unwrap();
        let (dir, name) = (program.parent().unwrap(), PathBuf::from(program.file_name().unwrap()));
        let natives = of(dir, std::slice::from_ref(&name), &name);
        assert_eq!(natives.len(), 1);
        assert_eq!(misfit(&natives, Target::of_this_machine().unwrap()), None, "{natives:?}");
    }

    #[test]
    fn one_file_that_fits_is_enough_and_main_counts_alone() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let [one, other] = ["linux-x86_64-glibc", "linux-aarch64-glibc"].map(|t| Target::parse(t).unwrap());
        write("a.node", &elf_file(62, None, Some("libc.so.6")));
        write("b.so.1", &elf_file(62, None, Some("libc.so.6")));
        write("index.js", b"");
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let natives = of(dir.path(), &files(&["a.node", "b.so.1", "index.js"]), Path::new("index.js"));
        assert_eq!((natives.len(), misfit(&natives, one)), (1, None));
        assert_eq!(misfit(&natives, other).unwrap().file, "a.node");
        write("c.node", &elf_file(183, None, Some("libc.so.6")));
        let natives = of(dir.path(), &files(&["a.node", "c.node", "index.js"]), Path::new("index.js"));
        assert_eq!((misfit(&natives, one), misfit(&natives, other)), (None, None));
        let natives = of(dir.path(), &files(&["a.node", "c.node"]), Path::new("c.node"));
        assert_eq!(misfit(&natives, one).unwrap().file, "c.node");
        assert_eq!(misfit(&[], other), None);
    }
}
