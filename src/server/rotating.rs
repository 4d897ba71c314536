//! Rotating: a file of limited size that lines are appended to, and the older ones beside it: `name`, `name.1`, ….
//!
//! **Invariant**: only whole lines are in it: what a full disk took a part of is taken back, and so is, before the next
//! line, what a server that was killed had written of one. Nor does it ever grow beyond its size, unless one append
//! alone is larger.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Of what an app prints, and as much again of its requests: 50 MiB each.
pub(crate) const PER_APP: Sizes = Sizes { file: 10 << 20, files: 5 };
/// How much is read at once in search of the end of the last whole line.
const LOOK: u64 = 64 << 10;

/// How much may lie there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Of one file in bytes.
    pub file: u64,
    /// How many there are, the newest included.
    pub files: u32,
}

pub(crate) struct Rotating {
    path: PathBuf,
    sizes: Sizes,
    file: File,
    size: u64,
}

impl Rotating {
    /// The folder must be there.
    pub fn open(path: PathBuf, sizes: Sizes) -> io::Result<Rotating> {
        let file = open(&path)?;
        let size = cut_to_lines(&file)?;
        Ok(Rotating { path, sizes, file, size })
    }

    /// Appends whole lines. After an error nothing of them is in the file, unless it cannot even be cut.
    ///
    /// # Errors
    /// Those of the disk; or NotFound when somebody has removed the file, so that the lines are nowhere.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.sizes.file {
            self.rotate()?;
        }
        if let Err(e) = self.file.write_all(lines) {
            let _ = self.file.set_len(self.size); // of a line cut in two the reader sees that it is no line
            return Err(e);
        }
        self.size += lines.len() as u64;
        match self.file.metadata()?.nlink() {
            0 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (0..self.sizes.files.saturating_sub(1)).rev() {
            match fs::rename(older(&self.path, n), older(&self.path, n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        (self.file, self.size) = (open(&self.path)?, 0);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// Takes off what has no end of line, and tells the size that is left.
fn cut_to_lines(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    while end > 0 {
        let from = end.saturating_sub(LOOK);
        let mut bytes = vec![0; (end - from) as usize];
        file.read_exact_at(&mut bytes, from)?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            end = from + at as u64 + 1;
            break;
        }
        end = from;
    }
    if end < size {
        file.set_len(end)?;
    }
    Ok(end)
}

/// The n-th older file; 0 is the newest.
pub(crate) fn older(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if n > 0 {
        name.push(format!(".{n}"));
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_so_many_files_of_such_a_size_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let sizes = Sizes { file: 100, files: 3 };
        for part in 0..2 {
            let mut log = Rotating::open(path.clone(), sizes).unwrap();
            for n in 0..50 {
                log.append(format!("line {part} {n:03}\n").as_bytes()).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["x.log", "x.log.1", "x.log.2"]);
        let read = |n| fs::read_to_string(older(&path, n)).unwrap();
        assert!((0..3).all(|n| read(n).len() <= 100));
        let all = read(2) + &read(1) + &read(0);
        let last: Vec<String> = (0..50).map(|n| format!("line 1 {n:03}\n")).collect();
        assert!(last.concat().ends_with(&all) && all.len() > 200, "{all}");
    }

    #[test]
    fn a_line_that_a_crash_has_cut_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let sizes = Sizes { file: 1 << 20, files: 2 };
        let half = "h".repeat(3 * LOOK as usize);
        for (left, kept) in [
            ("one\nha", "one\n"),
            ("one\n", "one\n"),
            ("ha", ""),
            ("", ""),
            (&format!("one\n{half}"), "one\n"),
            (&half, ""),
        ] {
            fs::write(&path, left).unwrap();
            let mut log = Rotating::open(path.clone(), sizes).unwrap();
            log.append(b"two\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{kept}two\n"));
        }
    }

    #[test]
    fn tells_of_a_full_disk_and_of_a_file_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let sizes = Sizes { file: 1000, files: 2 };
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut full = Rotating::open(path.clone(), sizes).unwrap();
        assert_eq!(full.append(b"x\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        fs::remove_file(&path).unwrap();
        let mut log = Rotating::open(path.clone(), sizes).unwrap();
        log.append(b"one\n").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(log.append(b"two\n").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
