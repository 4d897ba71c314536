//! Tars and zstd frames, byte by byte, as no packer of ours would write them.

use super::super::BLOCK;

/// A head and what follows it. The fields are those of POSIX.1-1988 (ustar) and GNU tar.
#[derive(Clone)]
pub struct Entry {
    pub head: [u8; BLOCK],
    content: Vec<u8>,
}

/// Of this type, with a content, in GNU's form.
pub fn entry(kind: u8, name: impl AsRef<[u8]>, content: &[u8]) -> Entry {
    let mut entry = Entry { head: [0; BLOCK], content: content.to_vec() };
    entry.head[156] = kind;
    entry.head[257..265].copy_from_slice(b"ustar  \0");
    entry.put(0, name.as_ref()).put(100, b"0000644\0").put(124, format!("{:011o}", content.len()))
}

pub fn file(name: impl AsRef<[u8]>) -> Entry {
    entry(b'0', name, b"x")
}

pub fn folder(name: impl AsRef<[u8]>) -> Entry {
    entry(b'5', name, b"")
}

pub fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(b'2', name, b"").put(157, target)
}

/// GNU's record for a name that is too long for a head.
pub fn long_name(name: impl AsRef<[u8]>) -> Entry {
    entry(b'L', "././@LongLink", &[name.as_ref(), b"\0"].concat())
}

pub fn long_link(target: impl AsRef<[u8]>) -> Entry {
    entry(b'K', "././@LongLink", &[target.as_ref(), b"\0"].concat())
}

/// A head of POSIX.1-2001 with one key for the next entry, or for all.
pub fn pax(kind: u8, key: &str, value: &str) -> Entry {
    let rest = format!(" {key}={value}\n");
    let len = (1..).find(|len: &usize| len.to_string().len() + rest.len() == *len).unwrap();
    entry(kind, "PaxHeaders/x", format!("{len}{rest}").as_bytes())
}

impl Entry {
    /// Other bytes in the head.
    pub fn put(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Entry {
        self.head[at..at + bytes.as_ref().len()].copy_from_slice(bytes.as_ref());
        let sum: u32 = self.head[..148].iter().chain(&self.head[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        self.head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    pub fn mode(self, mode: u32) -> Entry {
        self.put(100, format!("{mode:07o}\0"))
    }

    /// Whatever the content is.
    pub fn size(self, field: &[u8; 12]) -> Entry {
        self.put(124, field)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let padding = self.content.len().next_multiple_of(BLOCK) - self.content.len();
        [&self.head[..], &self.content, &vec![0; padding]].concat()
    }
}

/// The entries and the two empty blocks behind them.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    tar.extend([0; 2 * BLOCK]);
    tar
}

/// A frame (RFC 8878) of one raw block: for bodies below 128 KiB, with a window of two to the power of `window`.
pub fn frame(window: u8, dictionary: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, u8::from(dictionary.is_some()), (window - 10) << 3];
    frame.extend(dictionary);
    let block = (body.len() as u32) << 3 | 1;
    frame.extend(&block.to_le_bytes()[..3]);
    frame.extend(body);
    frame
}

/// A frame that says nothing.
pub fn skippable(body: &[u8]) -> Vec<u8> {
    [&0x184d_2a50_u32.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), body].concat()
}
