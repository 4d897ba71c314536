//! Stream: the data plane's end of a wire, with the calls of a socket.

use std::io::{self, ErrorKind};

use mio::Token;

use super::{Farewell, Stage, Stream};
use crate::sys;

impl Stream {
    pub(in crate::proxy) fn moved(&self) -> Option<sys::Moved> {
        let wire = self.0.wire.borrow();
        Some(sys::Moved { acked: wire.seen as u64, received: wire.came })
    }

    pub(in crate::proxy) fn register(&self, token: Token) {
        self.0.wire.borrow_mut().token = Some(token);
        self.0.wake(); // what is so already is reported at once
    }

    pub(in crate::proxy) fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        let n = self.peek(room)?;
        let mut wire = self.0.wire.borrow_mut();
        wire.inbox.drain(..n);
        log::trace!("wire {}: read {n}", wire.name);
        let news = n > 0 || !std::mem::replace(&mut wire.end_read, true);
        drop(wire);
        self.0.moved(if n > 0 { n } else { usize::from(news) });
        Ok(n)
    }

    pub(in crate::proxy) fn peek(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.wire.borrow_mut();
        if !wire.inbox.is_empty() {
            let n = room.len().min(wire.inbox.len());
            let (front, back) = wire.inbox.as_slices();
            let split = n.min(front.len());
            room[..split].copy_from_slice(&front[..split]);
            room[split..n].copy_from_slice(&back[..n - split]);
            return Ok(n);
        }
        if wire.fin {
            return Ok(0); // what was ended before it broke has ended well
        }
        match wire.error.take() {
            Some(error) => Err(error.into()),
            None if wire.stage == Stage::Dead => Ok(0), // a write was told already
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    pub(in crate::proxy) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.wire.borrow_mut();
        if let Some(error) = wire.error.take() {
            return Err(error.into());
        }
        if wire.stage == Stage::Dead || wire.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let free = match wire.stage {
            Stage::Open => wire.room.saturating_sub(wire.sent.len() - wire.seen),
            Stage::Dialing | Stage::Dead => 0,
        };
        let n = free.min(bytes.len());
        wire.starved |= n < bytes.len();
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        wire.sent.extend_from_slice(&bytes[..n]);
        log::trace!("wire {}: written {n} of {} {}", wire.name, bytes.len(), bytes[..n.min(60)].escape_ascii());
        drop(wire);
        self.0.moved(n);
        Ok(n)
    }

    pub(in crate::proxy) fn shut(&self) -> io::Result<()> {
        let mut wire = self.0.wire.borrow_mut();
        if wire.stage != Stage::Open {
            return Err(ErrorKind::NotConnected.into());
        }
        let news = !std::mem::replace(&mut wire.shut, true);
        log::trace!("wire {}: shut", wire.name);
        drop(wire);
        self.0.moved(usize::from(news));
        Ok(())
    }

    pub(in crate::proxy) fn reset_on_close(&self) {
        self.0.wire.borrow_mut().reset_on_close = true;
    }

    pub(in crate::proxy) fn keep_alive(&self) {
        self.0.wire.borrow_mut().kept_alive = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut wire = self.0.wire.borrow_mut();
        assert!(wire.closed.is_none(), "closed twice");
        let reset = wire.reset_on_close || !wire.inbox.is_empty();
        log::trace!("wire {}: closed reset={reset}", wire.name);
        wire.closed = Some(if reset { Farewell::Reset } else { Farewell::Fin });
    }
}
