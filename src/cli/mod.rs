//! `tako`: what a person types. A command line becomes a verb, an error becomes lines on standard error and an exit
//! code; all that is said goes through `ui`.
//!
//! Reading order: `args` checks the line against `commands::table`; `ui` is every word that comes out; `config` holds
//! the files of a user as written, `project` what `tako.toml` means; `commands` has one verb each.

pub(crate) mod args;
pub(crate) mod help;
pub(crate) mod nearest;
pub(crate) mod ui;
pub(crate) mod config;
pub(crate) mod detect;
pub(crate) mod project;
pub(crate) mod commands;
pub(crate) mod git;
pub(crate) mod build;
pub(crate) mod ship;
pub(crate) mod upload;
pub(crate) mod fanout;
pub(crate) mod remote;
pub(crate) mod ssh;
pub(crate) mod child;
pub(crate) mod interrupt;
pub(crate) mod terminal;
#[cfg(test)]
pub(crate) mod golden;

use std::process::ExitCode;

use crate::cli::args::{Args, Wish};
use crate::cli::commands::{Exit, version};
use crate::cli::ui::{Color, Settings, Ui};
use crate::error::{Kind, Result};

pub(crate) fn main() -> ExitCode {
    // `ssh` has started us to ask something; that is all this process does.
    if let Some(ended) = ssh::askpass::helper() {
        return ended;
    }
    let wish = Args::parse(std::env::args_os().skip(1));
    let ui = Ui::new(match &wish {
        Ok(Wish::Run(args)) => settings(args),
        Ok(Wish::Help(_) | Wish::Version) => Settings::default(),
        // A program that asked for events wants this one too.
        Err(_) => Settings { json: std::env::args_os().any(|a| a == "--json"), ..Settings::default() },
    });
    let ended = wish.and_then(|wish| serve(&ui, &wish));
    if let Err(e) = &ended {
        ui.error(e);
    }
    let closed = ui.close();
    if let (Ok(_), Err(e)) = (&ended, &closed) {
        ui.error(e);
    }
    ExitCode::from(code(ended.and_then(|exit| closed.map(|()| exit))))
}

fn serve(ui: &Ui, wish: &Wish) -> Result<Exit> {
    match wish {
        Wish::Run(args) => {
            ssh::means::set_up(ui, args.flag("no-mux"));
            return args.run(ui);
        }
        Wish::Help(path) => ui.out(&help::text(path)),
        Wish::Version => ui.out(&version::text()),
    }
    Ok(Exit::Done)
}

fn settings(args: &Args) -> Settings {
    Settings {
        json: args.flag("json"),
        quiet: args.flag("quiet"),
        verbose: args.flag("verbose"),
        no_input: args.flag("no-input"),
        yes: args.has("yes"),
        color: match args.value("color") {
            Some("always") => Color::Always,
            Some("never") => Color::Never,
            _ => Color::Auto,
        },
    }
}

/// The exit codes are a promise to scripts: they are in the manual and never change their meaning.
fn code(ended: Result<Exit>) -> u8 {
    let kind = match ended {
        Ok(Exit::Done) => return 0,
        Ok(Exit::Partly) => return 5,
        Ok(Exit::Unanswered) => return 6,
        Ok(Exit::Code(code)) => return code,
        Err(e) => e.kind(),
    };
    match kind {
        Kind::Usage => 2,
        Kind::Config => 3,
        Kind::Rejected => 4,
        Kind::Unreachable => 6,
        Kind::Busy => 7,
        Kind::Build => 8,
        Kind::Incompatible => 9,
        Kind::NeedsInput => 10,
        Kind::Interrupted => 130,
        Kind::NotFound | Kind::Conflict | Kind::Refused | Kind::Timeout | Kind::Io | Kind::Bug => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        let check = |kind, expected| assert_eq!(code(Err(Error::new(kind, "x"))), expected, "{kind:?}");
        check(Kind::Usage, 2);
        check(Kind::Config, 3);
        check(Kind::Rejected, 4);
        check(Kind::Unreachable, 6);
        check(Kind::Busy, 7);
        check(Kind::Build, 8);
        check(Kind::Incompatible, 9);
        check(Kind::NeedsInput, 10);
        check(Kind::Interrupted, 130);
        check(Kind::Io, 1);
        let all = [Exit::Done, Exit::Partly, Exit::Unanswered, Exit::Code(77)];
        assert_eq!(all.map(|e| code(Ok(e))), [0, 5, 6, 77]);
    }
}
