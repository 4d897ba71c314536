//! Help texts, made from the command table: examples first, because they are what most people came for.

use std::fmt::Write;

use crate::cli::args::{Args, Command, Does, Flag, Takes, lookup, spelled};
use crate::cli::commands::Exit;
use crate::cli::commands::table::{COMMANDS, GLOBAL_FLAGS};
use crate::cli::ui::Ui;
use crate::error::Result;

/// What `tako` itself is shown to do.
const EXAMPLES: [(&str, &str); 3] = [
    ("tako init", "write a tako.toml for this project"),
    ("tako servers add fra1.example.com", "make a server known"),
    ("tako deploy", "build and put live, without dropping a request"),
];

/// `tako help [COMMAND [VERB]]`.
pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    ui.out(&text(&lookup((0..).map_while(|i| args.positional(i)))?));
    Ok(Exit::Done)
}

/// The help of the command that `path` leads to; of `tako` when it is empty.
pub(crate) fn text(path: &[&'static Command]) -> String {
    let mut help = String::new();
    let Some(command) = path.last() else {
        section(&mut help, "Examples", EXAMPLES.map(|(line, why)| (line.into(), why)));
        help.push_str("Usage: tako COMMAND [FLAGS]\n\nShips web apps to your own servers as native processes.\n\n");
        section(&mut help, "Commands", rows(COMMANDS));
        section(&mut help, "Flags of every command", GLOBAL_FLAGS.iter().map(|f| (flag(f), f.help)));
        return help.trim_end().into();
    };
    section(&mut help, "Examples", command.examples.iter().map(|(line, why)| ((*line).into(), *why)));
    let _ = writeln!(help, "Usage: {}{}\n", spelled(path), takes(command));
    let _ = writeln!(help, "{}.\n", upper_first(command.about));
    if let Does::Group(commands) = command.does {
        section(&mut help, "Commands", rows(commands));
    }
    section(&mut help, "Arguments", command.args.iter().map(|a| (a.name.into(), a.help)));
    section(&mut help, "Flags", command.flags.iter().map(|f| (flag(f), f.help)));
    let everywhere: Vec<String> = GLOBAL_FLAGS.iter().map(|f| format!("--{}", f.name)).collect();
    let _ = writeln!(help, "With every command: {}. See `tako help`.", everywhere.join(" "));
    help.trim_end().into()
}

fn takes(command: &Command) -> String {
    if let [.., last] = command.args
        && last.name.ends_with("...")
    {
        return format!(" [FLAGS] [--] {}", last.name);
    }
    let mut takes = String::new();
    if let Does::Group(_) = command.does {
        takes.push_str(" COMMAND");
    }
    for arg in command.args {
        let _ = match arg.required {
            true => write!(takes, " {}", arg.name),
            false => write!(takes, " [{}]", arg.name),
        };
    }
    takes + " [FLAGS]"
}

fn rows(commands: &'static [Command]) -> impl Iterator<Item = (String, &'static str)> {
    commands.iter().filter(|c| !c.hidden).map(|c| (c.name.into(), c.about))
}

fn flag(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".into(), |s| format!("-{s}, "));
    match flag.takes {
        Takes::Nothing => format!("{short}--{}", flag.name),
        Takes::Value(what) => format!("{short}--{} {what}", flag.name),
        Takes::OneOf(choices) => format!("{short}--{} {}", flag.name, choices.join("|")),
    }
}

/// A heading and two columns; nothing at all without rows.
fn section(help: &mut String, heading: &str, rows: impl IntoIterator<Item = (String, &'static str)>) {
    let rows: Vec<(String, &str)> = rows.into_iter().collect();
    let Some(width) = rows.iter().map(|(left, _)| left.len()).max() else { return };
    let _ = writeln!(help, "{heading}:");
    for (left, right) in rows {
        let _ = writeln!(help, "  {left:width$}  {right}");
    }
    help.push('\n');
}

fn upper_first(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::golden;

    fn check_all(path: &[&'static Command], commands: &'static [Command]) {
        for command in commands {
            let path: Vec<&'static Command> = path.iter().copied().chain([command]).collect();
            let names: Vec<&str> = path.iter().map(|c| c.name).collect();
            golden::check(Path::new(&format!("tests/data/help/{}.txt", names.join("-"))), &(text(&path) + "\n"));
            if let Does::Group(commands) = command.does {
                check_all(&path, commands);
            }
        }
    }

    #[test]
    fn every_help_is_as_reviewed() {
        golden::check(Path::new("tests/data/help/tako.txt"), &(text(&[]) + "\n"));
        check_all(&[], COMMANDS);
    }

    #[test]
    fn help_leads_with_examples_and_fits_a_wide_terminal() {
        for path in [vec![], lookup(["deploy"]).unwrap(), lookup(["servers", "add"]).unwrap()] {
            let text = text(&path);
            assert!(text.starts_with("Examples:\n  tako "), "{text}");
            assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
        }
    }
}
