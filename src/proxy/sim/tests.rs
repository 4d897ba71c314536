//! Runs by seed. `SIM_SEED=n` plays one again and tells what happens.

use std::panic::catch_unwind;

use super::dice::bytes_of;
use super::{Net, play};
use crate::proxy::transport::{End, Io, Socket};
use crate::proxy::wire::{self, Ready};

/// Prints what happened, when one seed is played again.
struct Trace;

impl log::Log for Trace {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    #[allow(clippy::print_stderr)] // for whoever looks for the reason
    fn log(&self, record: &log::Record<'_>) {
        eprintln!("{}", record.args());
    }

    fn flush(&self) {}
}

const SEEDS: u64 = 3000;

fn play_seed(seed: u64) {
    let len = 100 + (seed as usize * 37) % 900;
    play(&bytes_of(seed, len));
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        log::set_logger(&Trace).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        return play_seed(seed.parse().unwrap());
    }
    let from = std::env::var("SIM_FROM").map_or(0, |from| from.parse().unwrap());
    let failed: Vec<u64> =
        (from..from + SEEDS).filter(|seed| catch_unwind(|| play_seed(*seed)).is_err()).take(6).collect();
    assert!(failed.is_empty(), "SIM_SEED is one of {failed:?}");
}

#[test]
fn an_end_read_after_a_write_has_met_the_reset_is_no_clean_one() {
    let mut io = Io::new(1 << 20);
    let read = |socket: &mut Socket, io: &mut Io| socket.gather(&mut [0; 100], io, 100, true);
    for (fin, expected) in [(false, End::Broken), (true, End::Clean)] {
        let (stream, end) = Net::new().arrive(10);
        let mut socket = Socket::accepted(wire::Stream::Sim(stream), None);
        socket.send(&[0; 20], &mut io).unwrap();
        end.send(b"half of it");
        if fin {
            end.finish();
        }
        end.reset();
        socket.on(Ready { readable: true, writable: true, read_closed: true, write_closed: true, error: true });
        assert!(socket.flush(&mut io).is_err());
        assert_eq!(read(&mut socket, &mut io).len, 10);
        assert_eq!(read(&mut socket, &mut io).end, expected, "after a FIN: {fin}");
        socket.clear(&mut io);
    }
}
