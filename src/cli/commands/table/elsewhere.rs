//! What people type who know other tools, and what that is called here. It is told, never acted upon, and none of it is
//! a word of ours.
//!
//! **Invariant**: each answer is a command line, or a flag, that the command table knows.

/// Commands of other tools, and what does the same here.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["ps", "ls", "list", "apps", "info", "details"], "tako status"),
    (&["rollback", "undo"], "tako releases rollback"),
    (&["history", "versions"], "tako releases ls"),
    (&["exec", "ssh", "shell", "console", "enter", "bash"], "tako run -it sh"),
    (&["destroy", "remove", "rm", "down"], "tako delete"),
    (&["push", "up", "ship", "redeploy"], "tako deploy"),
    (&["restart", "reload", "reboot"], "tako deploy --force"),
    (&["stop"], "tako scale 0"),
    (&["start"], "tako scale 1"),
    (&["setup", "bootstrap"], "tako servers add"),
    (&["doctor", "check"], "tako servers check"),
    (&["env", "vars"], "tako secrets set"),
    (&["launch", "new"], "tako init"),
    (&["tail"], "tako logs --tail"),
];

/// Flags of other tools, and the one of ours, for the commands that have it.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--follow"], "--tail"),
    (&["-n", "--num", "--number", "--limit"], "--lines"),
    (&["-e", "-d", "--environment", "--destination", "--stage"], "--env"),
    (&["--host", "--hosts", "--machine"], "--server"),
    (&["--assume-yes", "--auto-confirm", "--no-confirm"], "--yes"),
    (&["--identity", "--username", "--login"], "--user"),
];

pub(crate) fn command(word: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(words, _)| words.contains(&word)).map(|(_, ours)| *ours)
}

/// `known` tells whether the command has that flag of ours.
pub(crate) fn flag(shown: &str, known: impl Fn(&str) -> bool) -> Option<&'static str> {
    let (_, ours) = FLAGS.iter().find(|(words, _)| words.contains(&shown))?;
    known(ours.trim_start_matches('-')).then_some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Command, Does, Wish};
    use crate::cli::commands::table;

    #[test]
    fn every_answer_is_a_command_line_that_is_understood() {
        for (words, ours) in COMMANDS {
            let line = ours.split(' ').skip(1).chain(ours.ends_with(" set").then_some("NAME"));
            assert!(matches!(Args::parse(line), Ok(Wish::Run(_))), "{ours}");
            let taken = |c: &Command| words.iter().any(|word| c.name == *word || c.aliases.contains(word));
            assert!(!table::COMMANDS.iter().any(taken), "{words:?} are commands of ours");
        }
    }

    #[test]
    fn every_flag_is_one_that_some_command_has() {
        fn has(commands: &[Command], name: &str) -> bool {
            commands.iter().any(|c| {
                let below = matches!(c.does, Does::Group(commands) if has(commands, name));
                below || c.flags.iter().any(|flag| flag.name == name)
            })
        }
        for (_, ours) in FLAGS {
            assert!(has(table::COMMANDS, ours.trim_start_matches("--")), "{ours}");
        }
        assert_eq!(flag("--follow", |_| true), Some("--tail"));
        assert_eq!(flag("--follow", |_| false), None);
    }
}
