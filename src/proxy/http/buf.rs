//! Where bytes wait: borrowed chunks, given back as soon as they are empty.
//!
//! **Invariant**: an empty [`Buf`] holds no memory, so an idle connection holds none. What all bufs of a worker hold is
//! counted; who reads for them asks first whether it may be more.

/// What a borrowed chunk holds at first.
pub(in crate::proxy) const CHUNK: usize = 16 << 10;
/// Larger ones, grown by one big head, go back to the allocator and not to the pool.
const KEEP: usize = 4 * CHUNK;
/// How many unused chunks one worker keeps: 4 MiB at most.
const SPARE: usize = 64;

/// Unused chunks of one worker, latest first, because that one is still in the cache.
pub(in crate::proxy) struct Spare {
    chunks: Vec<Vec<u8>>,
    /// Bytes that bufs hold.
    lent: usize,
    /// The most that they should hold; a read that was begun below it may go a few chunks beyond.
    limit: usize,
}

impl Spare {
    pub fn new(limit: usize) -> Self {
        Spare { chunks: Vec::new(), lent: 0, limit }
    }

    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Bodies and tunnels have to wait: an eighth is left for heads, so that small requests still get through.
    pub fn is_short(&self) -> bool {
        self.lent >= self.limit / 8 * 7
    }

    /// Everything has to wait.
    pub fn is_exhausted(&self) -> bool {
        self.lent >= self.limit
    }

    fn take(&mut self) -> Vec<u8> {
        let chunk = self.chunks.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
        self.lent += chunk.capacity();
        chunk
    }

    fn give(&mut self, mut chunk: Vec<u8>) {
        debug_assert!(self.lent >= chunk.capacity(), "more given back than lent");
        self.lent = self.lent.saturating_sub(chunk.capacity());
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
        let before = self.chunk.capacity();
        self.chunk.extend_from_slice(bytes);
        spare.lent += self.chunk.capacity() - before;
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
        let (mut buf, mut spare) = (Buf::new(), Spare::new(CHUNK));
        buf.push(&[1; CHUNK - 1], &mut spare);
        buf.consume(CHUNK - 3, &mut spare);
        buf.push(&[2, 3, 4], &mut spare);
        assert_eq!(buf.bytes(), [1, 1, 2, 3, 4]);
        assert_eq!(buf.chunk.capacity(), CHUNK, "room is made by moving, not by growing");
        buf.consume(5, &mut spare);
        assert_eq!((buf.chunk.capacity(), spare.chunks.len(), spare.lent()), (0, 1, 0));
    }

    #[test]
    fn what_is_lent_is_counted_as_it_grows_and_comes_back() {
        let (mut one, mut other, mut spare) = (Buf::new(), Buf::new(), Spare::new(8 * CHUNK));
        one.push(&[1; 5 * CHUNK], &mut spare);
        assert!(spare.lent() >= 5 * CHUNK && !spare.is_short());
        other.push(&[1], &mut spare);
        other.replace(&[1; 2 * CHUNK], &mut spare);
        assert!(spare.is_short());
        other.push(&[1; 2 * CHUNK], &mut spare);
        assert!(spare.is_exhausted());
        one.clear(&mut spare);
        assert!(!spare.is_short());
        assert!(spare.chunks.iter().all(|c| c.capacity() <= KEEP), "one that a big head has grown is not kept");
        other.consume(4 * CHUNK, &mut spare);
        assert_eq!(spare.lent(), 0);
    }
}
