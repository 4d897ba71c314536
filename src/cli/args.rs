//! Arguments as typed: the command line checked against the command table (`commands::table`), by `lexopt`.
//!
//! It knows no command by name: what exists, what it takes and what it is called is said in the table alone, which
//! also feeds the help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::commands::Exit;
use crate::cli::commands::table::{COMMANDS, GLOBAL_FLAGS, elsewhere};
use crate::cli::nearest::did_you_mean;
use crate::cli::ui::Ui;
use crate::error::{Context, Error, Kind, Result};

/// A row of the command table.
pub(crate) struct Command {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// One line, lower case, no full stop.
    pub about: &'static str,
    pub args: &'static [Arg],
    pub flags: &'static [Flag],
    /// A command line and what it does.
    pub examples: &'static [(&'static str, &'static str)],
    pub hidden: bool,
    pub does: Does,
}

pub(crate) enum Does {
    Run(fn(&Ui, &Args) -> Result<Exit>),
    /// Nothing by itself: one of these must follow.
    Group(&'static [Command]),
}

pub(crate) struct Arg {
    /// As shown: `HOST`. One whose name ends with `...` is the last and takes the rest of the line as it is.
    pub name: &'static str,
    pub required: bool,
    pub help: &'static str,
}

pub(crate) struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    pub help: &'static str,
}

#[derive(Clone, Copy)]
pub(crate) enum Takes {
    Nothing,
    /// A value, shown by this word; given more than once, each counts.
    Value(&'static str),
    OneOf(&'static [&'static str]),
}

/// What a command line asks for.
pub(crate) enum Wish {
    Run(Args),
    /// The help of the command that these rows lead to; of `tako` itself when there are none.
    Help(Vec<&'static Command>),
    Version,
}

/// One command's arguments, checked against its row of the command table.
pub(crate) struct Args {
    path: Vec<&'static Command>,
    given: Vec<(&'static Flag, Option<String>)>,
    positional: Vec<String>,
}

impl Args {
    /// Reads a command line without the program's name.
    ///
    /// # Errors
    /// Usage, with a did-you-mean where there is one.
    pub fn parse<I>(line: I) -> Result<Wish>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut args = Args { path: Vec::new(), given: Vec::new(), positional: Vec::new() };
        let mut parser = lexopt::Parser::from_args(line);
        while let Some(arg) = parser.next().map_err(misuse)? {
            let flag = match arg {
                lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(Wish::Help(args.path)),
                lexopt::Arg::Short('V') | lexopt::Arg::Long("version") => return Ok(Wish::Version),
                lexopt::Arg::Short(short) => args.known_flags().find(|f| f.short == Some(short)),
                lexopt::Arg::Long(long) => args.known_flags().find(|f| f.name == long),
                lexopt::Arg::Value(word) => {
                    args.take_word(text(word)?)?;
                    if args.takes_the_rest() {
                        let rest = parser.raw_args().map_err(misuse)?;
                        args.positional.extend(rest.map(text).collect::<Result<Vec<_>>>()?);
                    }
                    continue;
                }
            };
            let Some(flag) = flag else { return Err(args.unknown_flag(&arg)) };
            let value = match flag.takes {
                Takes::Nothing => None,
                Takes::Value(_) | Takes::OneOf(_) => Some(text(parser.value().map_err(misuse)?)?),
            };
            args.take_flag(flag, value)?;
        }
        args.complete()
    }

    /// Whether `--name` was given.
    pub fn flag(&self, name: &str) -> bool {
        self.expect_known(name);
        self.has(name)
    }

    /// The same for a flag that this command may not have.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(flag, _)| flag.name == name)
    }

    /// The value of `--name VALUE`; the last one counts.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of `--name VALUE`, as often as it was given.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.expect_known(name);
        self.given.iter().filter(move |(flag, _)| flag.name == name).filter_map(|(_, value)| value.as_deref())
    }

    /// The value of `--name VALUE`, parsed.
    ///
    /// # Errors
    /// Usage, naming the flag and what it takes.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let what = match self.known_flags().find(|f| f.name == name).map(|f| f.takes) {
            Some(Takes::Value(what)) => what,
            _ => "value",
        };
        value.parse().map(Some).map_err(|_| {
            let help = self.known_flags().find(|f| f.name == name).map(|f| format!("`--{name} {what}`: {}", f.help));
            Error::new(Kind::Usage, format!("`--{name} {}` is not a valid {what}", value.escape_debug()))
                .hint(help.unwrap_or_else(|| self.help_hint()))
        })
    }

    /// The positional arguments; the table says how many there may be. A group's verb is not one of them.
    pub fn positional(&self, index: usize) -> Option<&str> {
        self.positional.get(index).map(String::as_str)
    }

    /// All of them.
    pub fn all_positional(&self) -> &[String] {
        &self.positional
    }

    /// The last word of the command: `deploy`, or `rollback` of `releases rollback`.
    #[cfg(test)]
    pub fn verb(&self) -> &'static str {
        self.path.last().map_or("", |c| c.name)
    }

    /// The project's directory: `--dir`, else where we are; absolute.
    pub fn dir(&self) -> Result<PathBuf> {
        let dir = std::path::absolute(self.value("dir").unwrap_or(".")).context(|| "find this directory".into())?;
        match dir.is_dir() {
            true => Ok(dir),
            false => Err(Error::new(Kind::Usage, format!("there is no directory {}", dir.display()))
                .hint("`--dir` takes the directory that holds tako.toml")),
        }
    }

    /// What the command does.
    pub fn run(&self, ui: &Ui) -> Result<Exit> {
        match self.path.last().map(|c| &c.does) {
            Some(Does::Run(run)) => run(ui, self),
            // `complete` lets nothing else pass.
            Some(Does::Group(_)) | None => Err(Error::new(Kind::Bug, "a command without a verb was run")),
        }
    }

    fn known_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.path.last().map_or(&[][..], |c| c.flags).iter().chain(GLOBAL_FLAGS)
    }

    /// A word is the next command of the path or, once that is complete, an argument.
    fn take_word(&mut self, word: String) -> Result<()> {
        let choices = match self.path.last().map(|c| &c.does) {
            None => COMMANDS,
            Some(Does::Group(commands)) => commands,
            Some(Does::Run(_)) => {
                self.positional.push(word);
                return self.check_count();
            }
        };
        match find(choices, &word) {
            Some(command) => self.path.push(command),
            None => return Err(unknown_command(&self.path, choices, &word)),
        }
        Ok(())
    }

    /// Whether what follows is not for us to read.
    fn takes_the_rest(&self) -> bool {
        let args = self.path.last().map_or(&[][..], |c| c.args);
        self.positional.len() == args.len() && args.last().is_some_and(|a| a.name.ends_with("..."))
    }

    fn take_flag(&mut self, flag: &'static Flag, value: Option<String>) -> Result<()> {
        if let (Takes::OneOf(choices), Some(value)) = (flag.takes, &value)
            && !choices.contains(&value.as_str())
        {
            let message = format!("`--{} {}` is not possible", flag.name, value.escape_debug());
            return Err(Error::new(Kind::Usage, message).hint(format!("it takes one of {}", choices.join(", "))));
        }
        self.given.push((flag, value));
        Ok(())
    }

    fn check_count(&self) -> Result<()> {
        let allowed = self.path.last().map_or(0, |c| c.args.len());
        match self.positional.get(allowed) {
            None => Ok(()),
            Some(extra) => {
                let message = format!("`{}` does not take `{}`", spelled(&self.path), extra.escape_debug());
                Err(Error::new(Kind::Usage, message).hint(self.help_hint()))
            }
        }
    }

    fn complete(self) -> Result<Wish> {
        let Some(command) = self.path.last() else { return Ok(Wish::Help(Vec::new())) };
        if let Does::Group(commands) = command.does {
            let verbs: Vec<&str> = commands.iter().filter(|c| !c.hidden).map(|c| c.name).collect();
            let message = format!("`{}` needs one of {}", spelled(&self.path), verbs.join(", "));
            return Err(Error::new(Kind::Usage, message).hint(self.help_hint()));
        }
        if let Some(missing) = command.args.iter().skip(self.positional.len()).find(|a| a.required) {
            let message = format!("`{}` needs {}", spelled(&self.path), missing.name);
            return Err(Error::new(Kind::Usage, message).hint(self.help_hint()));
        }
        Ok(Wish::Run(self))
    }

    fn unknown_flag(&self, arg: &lexopt::Arg<'_>) -> Error {
        let (shown, guess) = match arg {
            lexopt::Arg::Long(long) => {
                (format!("--{}", long.escape_debug()), did_you_mean(long, self.known_flags().map(|f| f.name)))
            }
            lexopt::Arg::Short(short) => (format!("-{}", short.escape_debug()), None),
            lexopt::Arg::Value(_) => (String::new(), None),
        };
        let message = match self.path.is_empty() {
            true => format!("there is no flag `{shown}` before the command"),
            false => format!("`{}` has no flag `{shown}`", spelled(&self.path)),
        };
        let hint = match elsewhere::flag(&shown, |name| self.known_flags().any(|f| f.name == name)) {
            Some(ours) => format!("here that is `{ours}`"),
            None => guess.map_or_else(|| self.help_hint(), |g| g.replace('`', "`--").replacen("`--?", "`?", 1)),
        };
        Error::new(Kind::Usage, message).hint(hint)
    }

    fn help_hint(&self) -> String {
        format!("see `{} --help`", spelled(&self.path))
    }

    /// A flag that the table lacks would read as never given, for ever.
    fn expect_known(&self, name: &str) {
        debug_assert!(
            self.known_flags().any(|f| f.name == name),
            "`{}` has no flag --{name} in the command table",
            spelled(&self.path)
        );
    }
}

/// Follows names down the command table.
///
/// # Errors
/// Usage, with a did-you-mean.
pub(crate) fn lookup<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<&'static Command>> {
    let mut path: Vec<&'static Command> = Vec::new();
    for name in names {
        let choices = match path.last().map(|c| &c.does) {
            None => COMMANDS,
            Some(Does::Group(commands)) => commands,
            Some(Does::Run(_)) => &[],
        };
        match find(choices, name) {
            Some(command) => path.push(command),
            None => return Err(unknown_command(&path, choices, name)),
        }
    }
    Ok(path)
}

/// `tako releases ls`.
pub(crate) fn spelled(path: &[&'static Command]) -> String {
    std::iter::once("tako").chain(path.iter().map(|c| c.name)).collect::<Vec<_>>().join(" ")
}

fn find(choices: &'static [Command], name: &str) -> Option<&'static Command> {
    choices.iter().find(|c| c.name == name || c.aliases.contains(&name))
}

fn unknown_command(path: &[&'static Command], choices: &[Command], word: &str) -> Error {
    let shown: String = word.chars().take(80).flat_map(char::escape_debug).collect();
    let names = choices.iter().filter(|c| !c.hidden).map(|c| c.name);
    let hint = match elsewhere::command(word).filter(|_| path.is_empty()) {
        Some(ours) => format!("here that is `{ours}`"),
        None => did_you_mean(word, names).unwrap_or_else(|| format!("see `{} --help`", spelled(path))),
    };
    Error::new(Kind::Usage, format!("there is no command `{} {shown}`", spelled(path))).hint(hint)
}

fn misuse(e: lexopt::Error) -> Error {
    let message = match e {
        lexopt::Error::MissingValue { option: Some(option) } => format!("`{option}` needs a value"),
        lexopt::Error::UnexpectedValue { option, .. } => format!("`{option}` takes no value"),
        other => other.to_string(),
    };
    Error::new(Kind::Usage, message)
}

fn text(word: OsString) -> Result<String> {
    word.into_string()
        .map_err(|w| Error::new(Kind::Usage, format!("the argument `{}` is not UTF-8", w.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args> {
        match Args::parse(line.split_whitespace())? {
            Wish::Run(args) => Ok(args),
            Wish::Help(path) => panic!("{line} asks for help of {}", spelled(&path)),
            Wish::Version => panic!("{line} asks for the version"),
        }
    }

    #[test]
    fn reads_flags_before_and_after_the_command() {
        let a = args("--json -C app deploy --env staging --server fra1 -y --server=nyc1").unwrap();
        assert_eq!(a.verb(), "deploy");
        assert!(a.flag("json") && a.flag("yes") && !a.flag("quiet"));
        assert_eq!((a.value("env"), a.value("dir")), (Some("staging"), Some("app")));
        assert_eq!(a.values("server").collect::<Vec<_>>(), ["fra1", "nyc1"]);
    }

    #[test]
    fn a_group_passes_its_verb_and_the_rest_are_arguments() {
        let a = args("releases rollback 4f2c9ab").unwrap();
        assert_eq!((a.verb(), a.positional(0), a.positional(1)), ("rollback", Some("4f2c9ab"), None));
        let a = args("secrets set API_KEY -").unwrap();
        assert_eq!((a.positional(0), a.positional(1)), (Some("API_KEY"), Some("-")));
    }

    #[test]
    fn what_follows_a_command_of_its_own_is_not_read() {
        let words = |line: &[&str]| match Args::parse(line.iter().copied()).unwrap() {
            Wish::Run(args) => (args.has("tty"), args.all_positional().to_vec()),
            _ => panic!("{line:?}"),
        };
        assert_eq!(words(&["run", "node", "-e", "1", "--json", "--"]).1, ["node", "-e", "1", "--json", "--"]);
        assert_eq!(words(&["run", "-it", "--env", "staging", "sh"]), (true, vec!["sh".into()]));
        assert_eq!(words(&["run", "--", "-x", "-t"]), (false, vec!["-x".into(), "-t".into()]));
        assert_eq!(words(&["run", "sh", "-it"]), (false, vec!["sh".into(), "-it".into()]));
        assert_eq!(args("run").err().unwrap().to_string(), "`tako run` needs COMMAND...");
    }

    #[test]
    fn help_and_version_are_wishes_of_their_own() {
        let help = |line: &str| match Args::parse(line.split_whitespace()).unwrap() {
            Wish::Help(path) => spelled(&path),
            _ => panic!("{line} is no wish for help"),
        };
        assert_eq!(help(""), "tako");
        assert_eq!(help("--help"), "tako");
        assert_eq!(help("deploy -h"), "tako deploy");
        assert_eq!(help("servers add --help"), "tako servers add");
        assert_eq!(help("servers --help"), "tako servers");
        assert!(matches!(Args::parse(["-V"]).unwrap(), Wish::Version));
    }

    #[test]
    fn says_what_is_wrong_and_what_was_meant() {
        let check = |line: &str, message: &str, hint: &str| {
            let e = args(line).err().unwrap();
            assert_eq!(e.kind(), Kind::Usage, "{line}");
            assert_eq!((e.to_string().as_str(), e.next_step().unwrap_or("")), (message, hint), "{line}");
        };
        check("depoly", "there is no command `tako depoly`", "did you mean `deploy`?");
        check("servers ad", "there is no command `tako servers ad`", "did you mean `add`?");
        check("servers", "`tako servers` needs one of add, rm, ls, check, status", "see `tako servers --help`");
        check("deploy --evn x", "`tako deploy` has no flag `--evn`", "did you mean `--env`?");
        check("rollback", "there is no command `tako rollback`", "here that is `tako releases rollback`");
        check("logs --follow", "`tako logs` has no flag `--follow`", "here that is `--tail`");
        check("deploy --follow", "`tako deploy` has no flag `--follow`", "see `tako deploy --help`");
        check("deploy -z", "`tako deploy` has no flag `-z`", "see `tako deploy --help`");
        check("deploy --env", "`--env` needs a value", "");
        check("deploy --yes=1", "`--yes` takes no value", "");
        check("deploy now", "`tako deploy` does not take `now`", "see `tako deploy --help`");
        check("scale", "`tako scale` needs N", "see `tako scale --help`");
        check("status --color blue", "`--color blue` is not possible", "it takes one of auto, always, never");
        check("--env x deploy", "there is no flag `--env` before the command", "see `tako --help`");
    }

    #[test]
    fn a_value_that_does_not_parse_is_a_usage_error() {
        let a = args("servers add host --port many").unwrap();
        let e = a.parsed::<u16>("port").unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Usage, "`--port many` is not a valid PORT"));
        assert!(e.next_step().unwrap().starts_with("`--port PORT`: "), "{e:?}");
        assert_eq!(args("servers add host --port 22").unwrap().parsed::<u16>("port").unwrap(), Some(22));
    }

    #[test]
    fn no_name_or_flag_is_there_twice() {
        fn check(commands: &[Command]) {
            for (i, c) in commands.iter().enumerate() {
                let names = |c: &Command| std::iter::once(c.name).chain(c.aliases.iter().copied()).collect::<Vec<_>>();
                for other in &commands[i + 1..] {
                    assert!(names(c).iter().all(|n| !names(other).contains(n)), "{} and {}", c.name, other.name);
                }
                let flags: Vec<&Flag> = c.flags.iter().chain(GLOBAL_FLAGS).collect();
                for (i, f) in flags.iter().enumerate() {
                    for g in &flags[i + 1..] {
                        assert!(
                            f.name != g.name && (f.short.is_none() || f.short != g.short),
                            "{} --{}",
                            c.name,
                            f.name
                        );
                    }
                }
                assert!((1..=3).contains(&c.examples.len()), "{} has {} examples", c.name, c.examples.len());
                assert!(
                    c.args.is_sorted_by_key(|a| !a.required),
                    "{} asks for an argument after an optional one",
                    c.name
                );
                if let Does::Group(commands) = c.does {
                    check(commands);
                }
            }
        }
        check(COMMANDS);
    }
}
