//! Where bytes wait: borrowed chunks, given back as soon as they are empty.
//!
//! **Invariant**: an empty [`Buf`] holds no memory, so an idle connection holds none.

/// What a borrowed chunk holds at first. Bodies are moved in pieces of at most two.
pub(in crate::proxy) const CHUNK: usize = 16 << 10;
/// Larger ones, grown by one big head, go back to the allocator and not to the pool.
const KEEP: usize = 4 * CHUNK;
/// How many unused chunks one worker keeps: 4 MiB at most.
const SPARE: usize = 64;

/// Unused chunks of one worker, latest first, because that one is still in the cache.
pub(in crate::proxy) struct Spare {
    chunks: Vec<Vec<u8>>,
    lent: u64,
}

impl Spare {
    pub fn new() -> Self {
        Spare { chunks: Vec::new(), lent: 0 }
    }

    /// How many are in use.
    pub fn lent(&self) -> u64 {
        self.lent
    }

    fn take(&mut self) -> Vec<u8> {
        self.lent += 1;
        self.chunks.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    fn give(&mut self, mut chunk: Vec<u8>) {
        self.lent = self.lent.saturating_sub(1); // a turn that panicked gave nothing back
        if self.chunks.len() < SPARE && chunk.capacity() <= KEEP {
            chunk.clear();
            self.chunks.push(chunk);
        }
    }
}

/// Bytes in the order they came.
pub(in crate::proxy) struct Buf {
    chunk: Vec<u8>,
    start: usize,
}

impl Buf {
    pub const fn new() -> Self {
        Buf { chunk: Vec::new(), start: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.chunk.len()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.start..]
    }

    pub fn push(&mut self, bytes: &[u8], spare: &mut Spare) {
        if bytes.is_empty() {
            return;
        }
        if self.chunk.capacity() == 0 {
            self.chunk = spare.take();
        }
        if self.start > 0 && self.chunk.len() + bytes.len() > self.chunk.capacity() {
            self.chunk.drain(..self.start);
            self.start = 0;
        }
        self.chunk.extend_from_slice(bytes);
    }

    /// Forgets the first `n` bytes.
    pub fn consume(&mut self, n: usize, spare: &mut Spare) {
        self.start += n;
        debug_assert!(self.start <= self.chunk.len(), "more consumed than there was");
        if self.is_empty() {
            self.clear(spare);
        }
    }

    pub fn clear(&mut self, spare: &mut Spare) {
        self.start = 0;
        if self.chunk.capacity() > 0 {
            spare.give(std::mem::take(&mut self.chunk));
        }
    }

    /// Makes `bytes` the whole content.
    pub fn replace(&mut self, bytes: &[u8], spare: &mut Spare) {
        self.clear(spare);
        self.push(bytes, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_gives_its_memory_back() {
        let (mut buf, mut spare) = (Buf::new(), Spare::new());
        buf.push(&[1; CHUNK - 1], &mut spare);
        buf.consume(CHUNK - 3, &mut spare);
        buf.push(&[2, 3, 4], &mut spare);
        assert_eq!(buf.bytes(), [1, 1, 2, 3, 4]);
        assert_eq!(buf.chunk.capacity(), CHUNK, "room is made by moving, not by growing");
        buf.consume(5, &mut spare);
        assert_eq!((buf.chunk.capacity(), spare.chunks.len()), (0, 1));
    }
}
