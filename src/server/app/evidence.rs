//! Evidence: what a program file is and what the machine has counted, read for `cause` when an instance has failed.
//!
//! Nothing here is sure to stay as it was read: it is a look and no hold, and what cannot be read is no evidence.

use std::fs::{self, File as Handle};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::cause::{File, Holder};
use super::group;

/// What is read of a program file: its headers, and the name of its loader, which linkers put in front.
const HEAD: u64 = 64 << 10;
/// The kernel reads no more of a first line (execve(2)).
const FIRST_LINE: usize = 255;

#[cfg(target_arch = "x86_64")]
const HERE: (&str, &[u16]) = ("Linux on x86_64", &[62, 3]);
#[cfg(target_arch = "aarch64")]
const HERE: (&str, &[u16]) = ("Linux on aarch64", &[183, 40]);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const HERE: (&str, &[u16]) = ("another machine", &[]);

/// What the file at `path` is, as far as that says why it does not start.
pub(crate) fn file(path: &Path) -> File {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return File::Missing,
        Err(_) => return File::Fine,
    };
    if metadata.is_dir() {
        return File::Folder;
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return File::NotExecutable;
    }
    let mut head = Vec::new();
    match Handle::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)) {
        Ok(_) => judge(&head, |program| Path::new(program).exists()),
        Err(_) => File::Fine,
    }
}

/// Who listens on a port of this machine.
pub(crate) fn holder(port: u16) -> Option<Holder> {
    let pid = group::listener(port)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, name: name.trim().into() })
}

/// Processes that the kernel has killed for want of memory since the machine started.
pub(crate) fn machine_oom_kills() -> Option<u64> {
    let counters = fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

fn judge(head: &[u8], is_there: impl Fn(&str) -> bool) -> File {
    match head {
        [] => File::Empty,
        [0x7f, b'E', b'L', b'F', ..] => elf(head, is_there).unwrap_or(File::Fine),
        [b'#', b'!', ..] => script(head, is_there).unwrap_or(File::Fine),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => foreign("macOS"),
        [b'M', b'Z', ..] if head.contains(&0) => foreign("Windows"),
        _ if !head.iter().take(FIRST_LINE).any(|b| *b == 0) => File::Text,
        _ => File::Fine,
    }
}

fn script(head: &[u8], is_there: impl Fn(&str) -> bool) -> Option<File> {
    let line = head[2..].split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(&line[..line.len().min(FIRST_LINE)]);
    let name = line.trim_matches([' ', '\t']).split([' ', '\t']).next()?;
    if is_there(name) {
        return None;
    }
    let carriage_return = name.ends_with('\r');
    Some(File::Interpreter { name: name.trim_end_matches('\r').into(), carriage_return })
}

/// The fields that matter of `Elf64_Ehdr` and `Elf64_Phdr` (elf(5)); every machine that we know has its low byte first.
fn elf(head: &[u8], is_there: impl Fn(&str) -> bool) -> Option<File> {
    const PT_INTERP: u32 = 3;
    const LITTLE_ENDIAN: u8 = 1;
    let machine = match head.get(5)? {
        &LITTLE_ENDIAN => u16_at(head, 18)?,
        _ => u16_at(head, 18)?.swap_bytes(),
    };
    if !HERE.1.is_empty() && !HERE.1.contains(&machine) {
        return Some(foreign(&machine_name(machine)));
    }
    let is_64 = *head.get(4)? == 2;
    let (table, size, count) = match is_64 {
        true => (u64_at(head, 32)?, u16_at(head, 54)?, u16_at(head, 56)?),
        false => (u64::from(u32_at(head, 28)?), u16_at(head, 42)?, u16_at(head, 44)?),
    };
    for n in 0..usize::from(count) {
        let at = usize::try_from(table).ok()?.checked_add(n * usize::from(size))?;
        if u32_at(head, at)? != PT_INTERP {
            continue;
        }
        let (offset, length) = match is_64 {
            true => (u64_at(head, at.checked_add(8)?)?, u64_at(head, at.checked_add(32)?)?),
            false => (u64::from(u32_at(head, at.checked_add(4)?)?), u64::from(u32_at(head, at.checked_add(16)?)?)),
        };
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let name = head.get(offset..offset.checked_add(length)?)?;
        let name = String::from_utf8_lossy(name.split(|b| *b == 0).next()?).into_owned();
        return (!is_there(&name)).then_some(File::Loader(name));
    }
    None
}

fn foreign(made_for: &str) -> File {
    File::Foreign { made_for: made_for.into(), here: HERE.0 }
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bits)".into(),
        20 | 21 => "PowerPC".into(),
        22 => "s390x".into(),
        40 => "ARM (32 bits)".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "RISC-V".into(),
        other => format!("a machine of ELF number {other}"),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program: an ELF file that runs here.
    fn ours() -> Vec<u8> {
        let mut head = Vec::new();
        let program = Handle::open(std::env::current_exe().unwrap()).unwrap();
        program.take(HEAD).read_to_end(&mut head).unwrap();
        head
    }

    #[test]
    fn an_elf_file_is_for_this_machine_and_its_loader_is_there_or_not() {
        let mut head = ours();
        assert_eq!(judge(&head, |_| true), File::Fine);
        assert!(matches!(judge(&head, |_| false), File::Loader(name) if name.starts_with('/') && name.contains("ld-")));
        let here = u16_at(&head, 18).unwrap();
        head[18..20].copy_from_slice(&if here == 183 { 62u16 } else { 183 }.to_le_bytes());
        let made_for = if here == 183 { "x86_64" } else { "aarch64" };
        assert_eq!(judge(&head, |_| true), foreign(made_for));
    }

    /// Whatever is in a file that people upload.
    #[test]
    fn no_bytes_make_it_fail() {
        let head = ours();
        for end in 0..200 {
            judge(&head[..end], |_| false);
        }
        for at in 0..120 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = head[..4096].to_vec();
                broken[at] = value;
                judge(&broken, |_| false);
                broken[at..at + 8].fill(value);
                judge(&broken, |_| false);
            }
        }
    }

    #[test]
    fn scripts_tell_who_runs_them() {
        let check = |text: &str, expected: File| assert_eq!(judge(text.as_bytes(), |p| p == "/bin/sh"), expected);
        let interpreter = |name: &str, carriage_return| File::Interpreter { name: name.into(), carriage_return };
        check("#!/bin/sh\necho", File::Fine);
        check("#! /bin/sh -e\n", File::Fine);
        check("#!/bin/sh\r\necho\r\n", interpreter("/bin/sh", true));
        check("#!/usr/bin/ruby3 -w", interpreter("/usr/bin/ruby3", false));
        check("console.log(1)\n", File::Text);
        check("", File::Empty);
        check("#!", interpreter("", false));
    }

    #[test]
    fn a_path_that_is_no_program_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(file(dir.path()), File::Folder);
        assert_eq!(file(&dir.path().join("none")), File::Missing);
        fs::write(dir.path().join("run"), "#!/bin/sh\n").unwrap();
        assert_eq!(file(&dir.path().join("run")), File::NotExecutable);
        assert_eq!(file(&dir.path().join("run/deeper")), File::Missing);
        assert_eq!(file(Path::new("/bin/sh")), File::Fine);
    }

    #[test]
    fn knows_who_holds_a_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holder(port).map(|h| h.pid), Some(std::process::id()));
        drop(listener);
        assert_eq!(holder(port), None);
    }
}
