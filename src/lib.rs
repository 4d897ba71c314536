//! Tako ships web apps to your own servers as native processes: `tako deploy` builds on your machine, sends an archive
//! over the system `ssh`, and `tako-server` swaps instances behind its own proxy without dropping a request.
//!
//! # Map
//!
//! ```text
//!   tako (cli) ── proto::control over ssh ──► tako-server ctl ──► control ─► verbs ─► daemon ─► app (an actor each)
//!     project, build, archive::pack                                                              │ rollout decides
//!                                                                                                │ instance, watch, probe, logs act
//!   clients ── HTTP, TLS ──► proxy workers ──► instances  ◄── tables ── board ◄── postings ──────┘
//! ```
//!
//! - [`proto`] is what two processes must agree on, and nothing else.
//! - [`proxy`] carries bytes from clients to endpoints. It knows routes, not apps; it is reached by messages only.
//! - [`server`] is what runs on a server: apps, releases, certificates, the management socket.
//! - [`cli`] is what a person types.
//! - Leaves: [`error`], [`logger`], [`disk`], [`crypto`], [`archive`], [`net`], [`sys`] (the only `unsafe`).
//!
//! Who may import whom is a table in `tests/it/tidy.rs`; the cli never imports the server, the proxy imports neither.
//!
//! # Decisions
//!
//! - Threads and one mio loop per proxy worker, no async runtime: a stack trace says what a thread is doing.
//! - Desired state is on disk, one file per app; observed state is in memory and can be observed again.
//! - Policy is pure and takes the time as an argument (`lifecycle`, `rollout`, `scale`, routing); bytes are sans-IO
//!   (`http`); what is left acts and decides nothing.
//! - Listening sockets belong to the control plane and are lent to the proxy, so that a successor can have them.
//!
//! # Invariants
//!
//! **Transaction**: routes, vars, limits, `current` and instances of an app change together at one commit, or not at all;
//! until it, the old instances live. Kept by `server::app::rollout` and the actor.
//! **Order**: once a worker has chosen by a table, no worker chooses by an older one. Kept by `proxy`.
//! **Drained**: an instance gets SIGTERM only when every worker has left it and nothing is in flight on it, or its drain
//! limit has passed. Kept by `proxy` (which says so) and `server::app` (which waits for it).
//! **Confined**: whatever an archive says, nothing is written outside the release. Kept by `archive`.
//! **Killed**: whenever `tako-server` is killed, the next one finds an app as it was or as it should have become, and what
//! still runs of it goes on if it is that and ends if it is not. Kept by `server::app::{leftover, adopt, boot}`; the
//! points of `server::crash` are where it is tested.
//! **Bounded**: every queue, buffer, count and wait has a limit, a `const` beside its reason.
//! **Silent**: no secret is in a file in clear, an argument, an environment that another user reads, a log or an error.

pub(crate) mod error;
pub(crate) mod logger;
pub(crate) mod disk;
pub(crate) mod crypto;
pub(crate) mod archive;
pub(crate) mod net;
pub(crate) mod sys;
pub(crate) mod proto;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod cli;

#[cfg(any(test, feature = "lab"))]
pub use archive::lab as archive_lab;
#[cfg(feature = "lab")]
pub use cli::build::lab as build_lab;
/// Doors for the fuzzers and the benchmark; not in what is shipped.
#[cfg(any(test, feature = "lab"))]
pub use proxy::lab;

use std::process::ExitCode;

/// `tako`: what a person types.
pub fn tako() -> ExitCode {
    cli::main()
}

/// `tako-server`: what runs on a server.
pub fn tako_server() -> ExitCode {
    server::main()
}

/// `tako-dev-server`: what runs on a developer's machine.
pub fn tako_dev_server() -> ExitCode {
    server::dev::main()
}
