//! Pieces: an upload on the connection that calls go over, for a server whose sshd offers no sftp.
//!
//! Each piece is a call of its own, in base64, so that nothing on the way has to know about uploads, and a refusal, an
//! interrupt or a lost connection is that of a call. A number of them are under way at once, because a distant server
//! answers late.
//!
//! **Invariant**: at most [`AHEAD`] pieces are unanswered, and none of them waits in our memory but those that the
//! connection has not taken yet.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::select;

use super::Remote;
use super::patience::Patience;
use super::sending::Parcel;
use crate::cli::interrupt::interrupted;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Answer, Body, Call, Piece, Reply, Request};

/// Each is answered, and an answer is what shows that the server is alive: even a line of 6 kB/s brings one in time.
const PIECE: usize = 128 << 10;
/// 4 MiB under way fill 40 MB/s at a distance of 100 ms, which is more than ssh's own window lets through.
const AHEAD: usize = 32;

impl Remote {
    pub(super) fn send_pieces(&mut self, parcel: &Parcel<'_>, from: u64, on: &dyn Fn(u64)) -> Result<()> {
        let file = File::open(parcel.file).context(|| format!("read {}", parcel.file.display()))?;
        let all = parcel.artifact.bytes;
        let mut offset = from;
        let mut asked: VecDeque<u64> = VecDeque::new();
        self.heard.now();
        loop {
            if offset < all && asked.len() < AHEAD {
                let (piece, bytes) = piece(&file, parcel, offset)?;
                let call = Call { id: self.next_id, request: Request::Put(piece) };
                asked.push_back(self.next_id);
                self.next_id += 1;
                offset += bytes;
                self.hand_over(call, &mut asked, on)?;
            } else if asked.is_empty() {
                return Ok(());
            } else {
                let answer = self.answer()?;
                note(&self.name, answer, &mut asked, on)?;
            }
        }
    }

    /// Gives a call to the thread that writes, hearing answers meanwhile: what the server has against a piece must not
    /// wait for the next.
    fn hand_over(&mut self, call: Call, asked: &mut VecDeque<u64>, on: &dyn Fn(u64)) -> Result<()> {
        let mut call = Some(call);
        while let Some(next) = call.take() {
            let [signal, sibling] = self.interrupt.bells();
            let (asked_at, left) = (Instant::now(), self.heard.left(&Patience::TALKING).max(Duration::from_millis(1)));
            let answer = select! {
                send(self.calls, next) -> sent => match sent {
                    Ok(()) => return Ok(()),
                    Err(_) => None,
                },
                recv(self.answers) -> answer => {
                    call = Some(next);
                    answer.ok()
                }
                recv(signal) -> _ => return Err(interrupted()),
                recv(sibling) -> _ => return Err(interrupted()),
                default(left) => {
                    if self.heard.is_over(&Patience::TALKING, left, asked_at.elapsed()) {
                        return Err(Patience::TALKING.passed(&self.name));
                    }
                    call = Some(next);
                    continue;
                }
            };
            match answer {
                Some(answer) => note(&self.name, answer?, asked, on)?,
                None => return Err(self.link.verdict(&self.name, true, false).0),
            }
        }
        Ok(())
    }
}

/// What is at `offset`, and how much of it there is.
fn piece(file: &File, parcel: &Parcel<'_>, offset: u64) -> Result<(Piece, u64)> {
    let all = parcel.artifact.bytes;
    let mut bytes = vec![0; usize::try_from(all - offset).unwrap_or(PIECE).min(PIECE)];
    file.read_exact_at(&mut bytes, offset).context(|| format!("read {}", parcel.file.display()))?;
    let data = STANDARD.encode(&bytes);
    let name = parcel.artifact.file.clone();
    Ok((Piece { app: parcel.app.clone(), file: name, offset, of: all, data }, bytes.len() as u64))
}

/// Hears of one piece that it arrived.
fn note(name: &str, answer: Answer, asked: &mut VecDeque<u64>, on: &dyn Fn(u64)) -> Result<()> {
    // What is left of a call that was given up is not for this one.
    if asked.front() != Some(&answer.id) {
        return Ok(());
    }
    match answer.body {
        Body::Notice(_) => {}
        Body::Reply(Reply::Incoming { bytes, .. }) => {
            asked.pop_front();
            on(bytes);
        }
        Body::Reply(_) => return Err(Error::new(Kind::Refused, format!("{name}: the server answered something else"))),
        Body::Fault(fault) => return Err(fault.into()),
    }
    Ok(())
}
