//! Entry: whether `main` can be started, looked at after the build and before anything is packed, so that a server
//! never sees a release that cannot start for a reason that was known here.
//!
//! It reads the first bytes of one file and runs nothing.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::pick::never_ships;
use crate::cli::nearest::nearest;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::target::{Arch, Libc, Target};

/// Enough for the head of an ELF file and the first line of a script.
const HEAD: usize = 256;
/// Longest name of a loader that is read; those of glibc and musl have a third of it.
const MAX_LOADER: usize = 128;
/// Program headers that are looked through for the loader; a linker writes about a dozen.
const MAX_HEADERS: usize = 64;
/// Folders and files that are looked through for a file of the same name: it is only for a hint.
const MAX_LOOKED_AT: usize = 5_000;

/// What has to be started, and how.
pub(crate) struct Entry<'a> {
    /// Relative to the app.
    pub main: &'a str,
    pub runtime: Runtime,
    /// The server executes `main` itself: no runtime and no `start` of its own is before it.
    pub executed: bool,
    pub target: Target,
}

/// # Errors
/// Build naming what keeps `main` in `app` from being started.
pub(crate) fn check(app: &Path, entry: &Entry<'_>) -> Result<()> {
    let (path, main) = (app.join(entry.main), entry.main);
    let Ok(found) = path.metadata() else { return Err(absent(app, main)) };
    if found.is_dir() {
        return Err(
            wrong(format!("`{main}` is a folder, and `main` is the file that is run")).hint(inside(&path, main))
        );
    }
    if !found.is_file() {
        return Err(wrong(format!("`{main}` is not a file")).hint("set `main` in tako.toml to the file that is run"));
    }
    let file = File::open(&path).context(|| format!("read `{main}`")).map_err(|e| {
        e.with_kind(Kind::Build).hint(format!("`main` must be readable after the build: see `ls -l {main}`"))
    })?;
    let mut head = Vec::with_capacity(HEAD);
    (&file).take(HEAD as u64).read_to_end(&mut head).context(|| format!("read `{main}`"))?;
    let format = Format::of(&head, &file);
    match entry.executed {
        true => executable(entry, found.permissions().mode(), &format),
        false => interpreted(entry, &format),
    }
}

fn executable(entry: &Entry<'_>, mode: u32, format: &Format) -> Result<()> {
    let (main, target) = (entry.main, entry.target);
    let rebuild = format!("build it for {target}, or set `[build] build` in tako.toml to what does");
    match format {
        Format::Empty => Err(wrong(format!("`{main}` is empty")).hint("does the build write it?")),
        Format::MacOs => Err(wrong(format!("`{main}` is a program for macOS")).hint(rebuild)),
        Format::Windows => Err(wrong(format!("`{main}` is a program for Windows")).hint(rebuild)),
        Format::Elf(elf) => match unfit(elf, target) {
            Some(why) => Err(wrong(format!("`{main}` {why}, and it is deployed to {target}")).hint(rebuild)),
            None => executable_bit(main, mode),
        },
        Format::Script { interpreter, carriage_return: true } => Err(wrong(format!(
            "the first line of `{main}` ends with a carriage return, so the system looks for a program `{interpreter}\\r`"
        ))
        .hint(format!("save it with line feeds alone: sed -i 's/\\r$//' {main}"))),
        Format::Script { .. } => executable_bit(main, mode),
        Format::Other => Err(wrong(format!("`{main}` is neither a program nor a script that begins with `#!`"))
            .hint(format!("say what runs it in tako.toml, such as: start = [\"{}\", \"{{main}}\"]", runner(main)))),
    }
}

fn executable_bit(main: &str, mode: u32) -> Result<()> {
    match mode & 0o111 {
        0 => Err(wrong(format!("`{main}` is not executable"))
            .hint(format!("run `chmod +x {main}`, as a last command of the build if it makes the file"))),
        _ => Ok(()),
    }
}

/// What a runtime or a `start` of the project's own reads.
fn interpreted(entry: &Entry<'_>, format: &Format) -> Result<()> {
    let (main, runtime) = (entry.main, entry.runtime.as_str());
    match (entry.runtime, format) {
        (Runtime::Bun | Runtime::Node | Runtime::Deno, Format::Elf(_) | Format::MacOs | Format::Windows) => {
            Err(wrong(format!("`{main}` is a compiled program and nothing that {runtime} could run"))
                .hint("set runtime = \"binary\" in tako.toml, or `main` to a script"))
        }
        _ => Ok(()),
    }
}

fn absent(app: &Path, main: &str) -> Error {
    let path = app.join(main);
    if let Ok(leads) = fs::read_link(&path) {
        return wrong(format!("`{main}` is a link to `{}`, which does not exist after the build", leads.display()))
            .hint("set `main` in tako.toml to the file itself");
    }
    let error = wrong(format!("`{main}` does not exist after the build"));
    match alike(app, main) {
        Some(found) => error.hint(format!("there is `{found}`: is that the file? then set main = \"{found}\"")),
        None => {
            error.hint("set `main` in tako.toml to the file that starts the app, or `[build] build` to what makes it")
        }
    }
}

/// A file beside it with another extension or a slip in its name, or one of the same name elsewhere in the app.
fn alike(app: &Path, main: &str) -> Option<String> {
    let name = Path::new(main).file_name()?;
    let stem = Path::new(main).file_stem()?;
    let beside = fs::read_dir(app.join(main).parent()?).ok();
    let mut beside: Vec<_> = beside.into_iter().flatten().flatten().take(MAX_LOOKED_AT).map(|e| e.path()).collect();
    beside.sort();
    if let Some(found) = beside.iter().find(|p| p.is_file() && p.file_stem() == Some(stem)) {
        return found.strip_prefix(app).ok()?.to_str().map(Into::into);
    }
    let names: Vec<&str> = beside.iter().filter_map(|p| p.file_name()?.to_str()).collect();
    if let Some(near) = nearest(name.to_str()?, names.iter().copied())
        && let Some(found) = Path::new(main).with_file_name(near).to_str().filter(|found| app.join(found).is_file())
    {
        return Some(found.into());
    }
    let (mut open, mut looked) = (vec![app.to_path_buf()], 0);
    // The nearest folders first.
    while !open.is_empty() {
        let mut below = Vec::new();
        for dir in open {
            let mut entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().take(MAX_LOOKED_AT).collect();
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                looked += 1;
                if looked > MAX_LOOKED_AT {
                    return None;
                }
                let (kind, path) = (entry.file_type().ok()?, entry.path());
                if kind.is_file() && entry.file_name() == name {
                    return path.strip_prefix(app).ok()?.to_str().map(Into::into);
                }
                if kind.is_dir() && !never_ships(&path) && entry.file_name() != "node_modules" {
                    below.push(path);
                }
            }
        }
        open = below;
    }
    None
}

/// Which file of a folder is likely the one.
fn inside(folder: &Path, main: &str) -> String {
    let main = main.trim_end_matches('/');
    let names = ["index.js", "index.mjs", "index.ts", "server.js", "main.js", "main.ts"];
    match names.iter().find(|name| folder.join(name).is_file()) {
        Some(name) => format!("set main = \"{main}/{name}\" in tako.toml"),
        None => format!("name the file in it, such as: main = \"{main}/index.js\""),
    }
}

/// What usually runs a file of that extension.
fn runner(main: &str) -> &'static str {
    match Path::new(main).extension().and_then(|e| e.to_str()) {
        Some("rb") => "ruby",
        Some("php") => "php",
        Some("jar") => "java",
        Some("sh") => "sh",
        _ => "python3",
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Empty,
    Elf(Elf),
    MacOs,
    Windows,
    Script { interpreter: String, carriage_return: bool },
    Other,
}

/// What the head of an ELF file says (System V ABI, chapter 4); `None` for what we do not know.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    arch: Option<Arch>,
    /// A program, or a library that can be one.
    runs: bool,
    /// As its loader tells; a static program has none and runs with either.
    libc: Option<Libc>,
}

impl Format {
    fn of(head: &[u8], file: &File) -> Format {
        match head {
            [] => Format::Empty,
            [0x7f, b'E', b'L', b'F', ..] => Format::Elf(elf(head, file)),
            // Mach-O in both byte orders and widths, and the fat form, which shares its first bytes with Java classes.
            [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] => Format::MacOs,
            [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, n, ..] if *n < 40 => Format::MacOs,
            [b'M', b'Z', _, 0, ..] => Format::Windows,
            [b'#', b'!', line @ ..] => {
                let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
                let text = String::from_utf8_lossy(line);
                let interpreter = text.split_ascii_whitespace().next().unwrap_or_default().to_string();
                Format::Script { interpreter, carriage_return: line.ends_with(b"\r") }
            }
            _ => Format::Other,
        }
    }
}

fn elf(head: &[u8], file: &File) -> Elf {
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    // The second class is 64 bits, the first order little endian: all that we deploy to.
    let ours = head.get(4..6) == Some(&[2, 1]);
    let arch = match half(18).filter(|_| ours) {
        Some(62) => Some(Arch::X86_64),
        Some(183) => Some(Arch::Aarch64),
        _ => None,
    };
    let runs = !ours || matches!(half(16), Some(2 | 3));
    Elf { arch, runs, libc: loader(head, file).filter(|_| ours).and_then(|name| libc_of(&name)) }
}

/// The name of the program that loads this one: the segment of type 3.
fn loader(head: &[u8], file: &File) -> Option<String> {
    let half = |at: usize| head.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (table, size, count) = (long(head, 32)?, half(54)?, half(56)?);
    let mut header = [0; 56];
    for n in 0..count.min(MAX_HEADERS) {
        file.read_exact_at(&mut header, table.checked_add((n * size) as u64)?).ok()?;
        if header[..4] == [3, 0, 0, 0] {
            let (offset, length) = (long(&header, 8)?, usize::try_from(long(&header, 32)?).ok()?);
            let mut name = vec![0; length.min(MAX_LOADER)];
            file.read_exact_at(&mut name, offset).ok()?;
            return Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_string());
        }
    }
    None
}

fn libc_of(loader: &str) -> Option<Libc> {
    let name = loader.rsplit('/').next()?;
    match name {
        _ if name.starts_with("ld-musl-") => Some(Libc::Musl),
        _ if name.starts_with("ld-linux") => Some(Libc::Glibc),
        _ => None,
    }
}

/// Why a program does not run on `target`.
fn unfit(elf: &Elf, target: Target) -> Option<String> {
    match elf {
        Elf { arch: None, .. } => Some("is built for a processor that Tako does not deploy to".into()),
        Elf { arch: Some(arch), .. } if *arch != target.arch => {
            let arch = match arch {
                Arch::X86_64 => "x86_64",
                Arch::Aarch64 => "aarch64",
            };
            Some(format!("is built for {arch}"))
        }
        Elf { runs: false, .. } => Some("is an object file and not a program".into()),
        Elf { libc: Some(Libc::Musl), .. } if target.libc == Libc::Glibc => Some("needs the C library musl".into()),
        Elf { libc: Some(Libc::Glibc), .. } if target.libc == Libc::Musl => Some("needs the C library glibc".into()),
        Elf { .. } => None,
    }
}

fn wrong(message: String) -> Error {
    Error::new(Kind::Build, message)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    const TARGET: &str = "linux-x86_64-glibc";

    fn app(files: &[(&str, &[u8], u32)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes, mode) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
        }
        dir
    }

    /// The head of an ELF file with one program header, which names `loader`.
    fn program(kind: u16, machine: u16, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::from(!loader.is_empty());
        let mut header = [0; 56];
        header[0] = 3;
        header[8] = 120;
        header[32] = u8::try_from(loader.len() + 1).unwrap();
        bytes.extend(header);
        bytes.extend(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    fn told(dir: &Path, main: &str, runtime: Runtime, executed: bool) -> Option<String> {
        let entry = Entry { main, runtime, executed, target: Target::parse(TARGET).unwrap() };
        let e = check(dir, &entry).err()?;
        assert_eq!(e.kind(), Kind::Build, "{e}");
        Some(format!("{e} / {}", e.next_step().unwrap()))
    }

    #[test]
    fn what_the_server_executes_must_be_a_program_for_it() {
        let check = |bytes: &[u8], mode, expected: &[&str]| {
            let dir = app(&[("bin/app", bytes, mode)]);
            let said = told(dir.path(), "bin/app", Runtime::Binary, true).unwrap_or_default();
            assert_eq!(said.is_empty(), expected.is_empty(), "{said}");
            assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        };
        let glibc = "/lib64/ld-linux-x86-64.so.2";
        check(&program(2, 62, glibc), 0o755, &[]);
        check(&program(3, 62, glibc), 0o755, &[]);
        check(&program(3, 62, ""), 0o755, &[]);
        check(&program(3, 62, glibc), 0o644, &["is not executable", "chmod +x bin/app"]);
        check(&program(3, 183, "/lib/ld-linux-aarch64.so.1"), 0o755, &["is built for aarch64", TARGET]);
        check(&program(3, 62, "/lib/ld-musl-x86_64.so.1"), 0o755, &["needs the C library musl"]);
        check(&program(3, 243, ""), 0o755, &["a processor that Tako does not deploy to"]);
        check(&program(1, 62, ""), 0o755, &["is an object file"]);
        check(b"\x7fELF", 0o755, &["a processor that"]);
        check(b"\xcf\xfa\xed\xfe\x07\0\0\x01", 0o755, &["for macOS"]);
        check(b"\xca\xfe\xba\xbe\0\0\0\x02", 0o755, &["for macOS"]);
        check(b"MZ\x90\0", 0o755, &["for Windows", "build it for linux-x86_64-glibc"]);
        check(b"", 0o755, &["is empty"]);
        check(b"#!/bin/sh\necho", 0o755, &[]);
        check(b"#!/bin/sh\necho", 0o644, &["is not executable"]);
        check(b"#!/usr/bin/env python3\r\nx", 0o755, &["`/usr/bin/env\\r`", "sed -i"]);
        check(b"import http.server\n", 0o755, &["neither a program nor a script", "start = [\"python3\", \"{main}\"]"]);
    }

    #[test]
    fn a_head_of_any_bytes_is_read_without_a_panic() {
        let whole = program(3, 62, "/lib64/ld-linux-x86-64.so.2");
        for end in 0..whole.len() {
            let dir = app(&[("app", &whole[..end], 0o755)]);
            let _ = told(dir.path(), "app", Runtime::Binary, true);
        }
        let mut odd = whole;
        for at in 16..odd.len() {
            odd[at] = 0xff;
            let dir = app(&[("app", &odd, 0o755)]);
            let _ = told(dir.path(), "app", Runtime::Binary, true);
        }
    }

    #[test]
    fn our_own_test_program_is_one() {
        let path = std::env::current_exe().unwrap();
        let file = File::open(&path).unwrap();
        let mut head = vec![0; HEAD];
        (&file).read_exact(&mut head).unwrap();
        let Format::Elf(elf) = Format::of(&head, &file) else { panic!("no ELF") };
        assert_eq!(unfit(&elf, Target::of_this_machine().unwrap()), None, "{elf:?}");
    }

    #[test]
    fn main_is_a_file_that_is_there() {
        let dir = app(&[
            ("src/server.ts", b"x", 0o644),
            ("dist/index.js", b"x", 0o644),
            ("deep/er/app.js", b"x", 0o644),
            ("node_modules/x/other.js", b"x", 0o644),
            ("tool", b"\x7fELF\x02\x01", 0o755),
        ]);
        std::os::unix::fs::symlink("gone.js", dir.path().join("link.js")).unwrap();
        let check = |main: &str, expected: &[&str]| {
            let said = told(dir.path(), main, Runtime::Bun, false).unwrap_or_default();
            assert_eq!(said.is_empty(), expected.is_empty(), "{main}: {said}");
            assert!(expected.iter().all(|part| said.contains(part)), "{main}: {said}");
        };
        check("src/server.ts", &[]);
        check("src/server.js", &["does not exist after the build", "there is `src/server.ts`"]);
        check("src/sevrer.ts", &["there is `src/server.ts`"]);
        check("app.js", &["there is `deep/er/app.js`"]);
        check("other.js", &["does not exist", "set `main` in tako.toml"]);
        check("dist", &["is a folder", "main = \"dist/index.js\""]);
        check("src/", &["is a folder", "such as"]);
        check("link.js", &["is a link to `gone.js`"]);
        check("tool", &["a compiled program and nothing that bun could run", "runtime = \"binary\""]);
    }
}
