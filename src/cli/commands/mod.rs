//! One verb each. Every command is `run(&Ui, &Args) -> Result<Exit>`, and a row of `table`.

pub(crate) mod table;
pub(crate) mod init;
pub(crate) mod config;
pub(crate) mod servers;
pub(crate) mod secrets;
pub(crate) mod version;

pub(crate) mod aim;
pub(crate) mod change;
pub(crate) mod deploy;
pub(crate) mod failure;
pub(crate) mod rehearse;
pub(crate) mod status;
pub(crate) mod logs;
pub(crate) mod releases;
pub(crate) mod scale;
pub(crate) mod delete;
pub(crate) mod run;

/// How a command ended when it did not fail with an error: the exit codes that an error's kind does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// 5: servers differ now.
    Partly,
    /// 6: some servers did not answer, and what the others said was told.
    Unanswered,
    /// That of a command that ran elsewhere.
    Code(u8),
}
