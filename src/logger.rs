//! The backend of the `log` facade: one line per record on standard error, `time level target message`.
//!
//! The message carries `key=value` pairs, written by the caller. Used by the daemons alone; the CLI speaks through
//! its `Ui`. It never allocates a queue: a record is one `write`, and a failed write is dropped, because a daemon
//! whose log is gone must still serve.

use std::io::Write;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

struct Logger;

static LOGGER: Logger = Logger;

/// Starts logging at `level`. A second call changes the level only.
pub fn start(level: LevelFilter) {
    // Already set is fine: tests and re-entry share one process.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // rustls tells every handshake at debug; its warnings are still wanted.
        metadata.level() <= log::Level::Info || metadata.target().starts_with("tako")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let target = record.target().strip_prefix("tako::").unwrap_or(record.target());
        let line = format!("{} {} {target} {}\n", stamp(), record.level().as_str().to_lowercase(), record.args());
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn stamp() -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{now:.3}")
}
