//! Behind: what is written goes to its file on a thread of its own, so that a disk that is slow for a moment does not stop
//! the processor.
//!
//! **Invariant**: a failure is told, by the next write or at the end, and nothing is written after it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Writes that wait: of the compressor, 128 KiB each.
const PIECES: usize = 64;

pub(super) struct Behind {
    pieces: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<io::Result<File>>>,
}

impl Behind {
    /// # Errors
    /// When no thread can be started.
    pub fn new(file: File) -> io::Result<Behind> {
        let (pieces, coming) = sync_channel(PIECES);
        let writer = thread::Builder::new().name("pack".into()).spawn(move || drain(file, &coming))?;
        Ok(Behind { pieces: Some(pieces), writer: Some(writer) })
    }

    /// The file with all of it.
    ///
    /// # Errors
    /// Of any write.
    pub fn finish(mut self) -> io::Result<File> {
        self.join()
    }

    fn join(&mut self) -> io::Result<File> {
        self.pieces = None;
        let ended = || io::Error::other("the writer has ended");
        self.writer.take().ok_or_else(ended)?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Write for Behind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.pieces.as_ref().map(|pieces| pieces.send(bytes.to_vec())) {
            Some(Ok(())) => Ok(bytes.len()),
            // It has ended, which it does by itself only for a reason.
            _ => Err(self.join().err().unwrap_or_else(|| io::Error::other("the writer has ended"))),
        }
    }

    /// What was written is on its way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn drain(mut file: File, pieces: &Receiver<Vec<u8>>) -> io::Result<File> {
    pieces.iter().try_for_each(|piece| file.write_all(&piece))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_that_was_written_is_there_at_the_end() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut behind = Behind::new(File::create(&path).unwrap()).unwrap();
        let all: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        for piece in all.chunks(1000) {
            behind.write_all(piece).unwrap();
        }
        behind.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), all);
    }

    #[test]
    fn a_disk_that_is_full_is_told_by_a_write_or_at_the_end() {
        let mut behind = Behind::new(File::create("/dev/full").unwrap()).unwrap();
        let full = rustix::io::Errno::NOSPC.raw_os_error();
        let told = (0..10 * PIECES).find_map(|_| behind.write_all(&[7; 10]).err());
        assert_eq!(told.unwrap().raw_os_error(), Some(full));
        assert!(behind.finish().is_err(), "and there is no file");

        let mut behind = Behind::new(File::create("/dev/full").unwrap()).unwrap();
        behind.write_all(b"x").unwrap();
        assert_eq!(behind.finish().unwrap_err().raw_os_error(), Some(full));
    }
}
