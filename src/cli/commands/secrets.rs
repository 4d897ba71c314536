//! `tako secrets`: the vault of this project, several values at once (`import`), the keys (`key`), and the way to the
//! servers without a deploy (`sync`). A value comes from a hidden prompt or from standard input, never from an
//! argument, where other users of the machine could read it.

pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod sync;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, stdin};

use serde_json::json;
use zeroize::Zeroizing;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::config::vault::{Changes, MAX_VALUE, Vault, check_name};
use crate::cli::nearest::did_you_mean;
use crate::cli::project::Project;
use crate::cli::ui::Ui;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::EnvName;

/// `tako secrets set NAME [-]`.
pub(crate) fn set(ui: &Ui, args: &Args) -> Result<Exit> {
    let name = args.positional(0).unwrap_or_default();
    check_name(name).map_err(|e| e.with_kind(Kind::Usage))?;
    let from_stdin = match args.positional(1) {
        Some("-") => true,
        Some(_) => {
            return Err(Error::new(
                Kind::Usage,
                "a secret's value is never an argument: everybody on this machine could see it",
            )
            .hint(format!("run `tako secrets set {name}` and type it, or pipe it into `tako secrets set {name} -`")));
        }
        None => is_piped(args),
    };
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    // Before anybody types a value in vain.
    let vault = Vault::load(&project.dir, &project.name)?;
    vault.open(&env)?;
    let value = match from_stdin {
        true => piped(&mut stdin().lock(), MAX_VALUE)?,
        false => ui.ask_secret(&format!("Value of {name} for {env}"), "the value on standard input and `-`")?,
    };
    let values = BTreeMap::from([(name.to_string(), value)]);
    let changes = Vault::edit(&project.dir, &project.name, |vault| vault.set(&env, &values))?;
    ui.out(&match (changes.added.as_slice(), changes.same.as_slice()) {
        ([_], _) => format!("{name} set for {env}"),
        (_, [_]) => format!("{name} of {env} is the same already"),
        _ => format!("{name} changed for {env}"),
    });
    tell(ui, &vault, &env, &changes);
    ui.event("result", json!({ "name": name, "env": env, "replaced": changes.added.is_empty() }));
    Ok(Exit::Done)
}

/// What a person should know of a change, beside what it was.
fn tell(ui: &Ui, vault: &Vault, env: &EnvName, changes: &Changes) {
    if changes.new_key {
        ui.note(&format!(
            "a new key was made: {} (whoever deploys needs it, see `tako secrets key`; keep a copy in a safe place)",
            vault.keys.path(env).display()
        ));
    }
    if !(changes.added.is_empty() && changes.changed.is_empty()) {
        ui.note(takes_effect(env));
    }
}

fn takes_effect(env: &EnvName) -> &'static str {
    match env.is_development() {
        true => "it takes effect with the next `tako dev`",
        false => "it takes effect with `tako secrets sync`, or with the next `tako deploy`",
    }
}

/// `tako secrets rm NAME`.
pub(crate) fn rm(ui: &Ui, args: &Args) -> Result<Exit> {
    let name = args.positional(0).unwrap_or_default();
    check_name(name).map_err(|e| e.with_kind(Kind::Usage))?;
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let vault = Vault::load(&project.dir, &project.name)?;
    let removed =
        vault.has(&env, name) && Vault::edit(&project.dir, &project.name, |vault| Ok(vault.remove(&env, name)))?;
    if removed {
        ui.out(&format!("{name} removed from {env}"));
        ui.note(takes_effect(&env));
    } else {
        let known = vault.presence();
        let guess = did_you_mean(name, known.keys().map(String::as_str).filter(|n| *n != name));
        ui.warn(&format!("{name} was not set for {env}{}", guess.map_or(String::new(), |g| format!("; {g}"))));
    }
    ui.event("result", json!({ "name": name, "env": env, "removed": removed }));
    Ok(Exit::Done)
}

/// `tako secrets ls`.
pub(crate) fn ls(ui: &Ui, args: &Args) -> Result<Exit> {
    let project = load(ui, args)?;
    let vault = Vault::load(&project.dir, &project.name)?;
    let presence = vault.presence();
    let envs = match args.value("env") {
        Some(_) => vec![env_of(ui, args, &project)?],
        None => {
            let mut envs: Vec<EnvName> =
                project.envs.keys().cloned().chain(presence.values().flatten().cloned()).collect();
            envs.sort();
            envs.dedup();
            envs
        }
    };
    match presence.is_empty() {
        true => ui.note("no secrets yet: run `tako secrets set NAME`"),
        false => {
            let head: Vec<String> = envs.iter().map(|e| e.as_str().to_uppercase()).collect();
            let head: Vec<&str> = std::iter::once("NAME").chain(head.iter().map(String::as_str)).collect();
            let mark = |set: bool| if set { "✓ set" } else { "– not set" }.to_string();
            let row = |name: &String| {
                std::iter::once(name.clone()).chain(envs.iter().map(|e| mark(vault.has(e, name)))).collect()
            };
            ui.table(&head, &presence.keys().map(row).collect::<Vec<Vec<String>>>());
        }
    }
    let secrets: Vec<_> = presence.iter().map(|(name, envs)| json!({ "name": name, "envs": envs })).collect();
    ui.event("result", json!({ "secrets": secrets }));
    Ok(Exit::Done)
}

fn load(ui: &Ui, args: &Args) -> Result<Project> {
    Project::load(&args.dir()?, &mut |warning| ui.warn(&warning))
}

/// The environment that is meant. One that `tako.toml` does not have is allowed, with a word: its secrets may come
/// first.
fn env_of(ui: &Ui, args: &Args, project: &Project) -> Result<EnvName> {
    let Some(name) = args.value("env") else { return Ok(EnvName::production()) };
    let env = EnvName::parse(name).map_err(|e| e.with_kind(Kind::Usage))?;
    if !project.envs.contains_key(&env) && !env.is_development() {
        let guess = did_you_mean(name, project.envs.keys().map(EnvName::as_str));
        ui.warn(&format!("tako.toml has no [envs.{env}] yet{}", guess.map_or(String::new(), |g| format!("; {g}"))));
    }
    Ok(env)
}

/// Whether something is to be read from standard input that nobody asked for by `-`.
fn is_piped(args: &Args) -> bool {
    !stdin().is_terminal() && !args.flag("no-input")
}

/// Text from a pipe, without the line end that `echo` adds. Of more than `most` bytes there is a little more than that,
/// which whoever checks it refuses.
fn piped(input: &mut impl Read, most: usize) -> Result<Zeroizing<String>> {
    // Room for all of it at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 8));
    input.take(most as u64 + 3).read_to_end(&mut bytes).context(|| "read standard input".into())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Error::new(Kind::Refused, "what is on standard input is not UTF-8").hint("encode it, for example in base64")
    })?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    match text.is_empty() {
        true => Err(Error::new(Kind::NeedsInput, "there is nothing on standard input")
            .hint("pipe it into this command with `-`, or run this on a terminal")),
        false => Ok(Zeroizing::new(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Wish;
    use crate::cli::ui::Settings;

    fn set_with(line: &[&str]) -> (Error, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tako.toml"), "name = \"a\"\nruntime = \"binary\"\nmain = \"a\"\n").unwrap();
        let line = [&["secrets", "set", "-C", dir.path().to_str().unwrap()], line].concat();
        let Wish::Run(args) = Args::parse(line).unwrap() else { panic!("runs nothing") };
        let (ui, ..) = Ui::captured(Settings::default());
        (set(&ui, &args).unwrap_err(), dir)
    }

    #[test]
    fn without_a_terminal_the_value_must_come_from_standard_input() {
        let (error, dir) = set_with(&["A", "--no-input"]);
        assert_eq!(error.kind(), Kind::NeedsInput);
        assert!(error.next_step().unwrap().contains("`-`"), "{error}");
        assert!(!dir.path().join(".tako").exists());
    }

    #[test]
    fn a_value_as_an_argument_is_refused_and_not_repeated() {
        let (error, _dir) = set_with(&["A", "hunter2"]);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(!error.to_string().contains("hunter2") && !error.next_step().unwrap().contains("hunter2"));
        assert_eq!(set_with(&["PORT", "-"]).0.kind(), Kind::Usage);
    }

    #[test]
    fn a_piped_value_loses_one_line_end() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(piped(&mut &*bytes, 99).unwrap().as_str(), expected);
        check(b"abc", "abc");
        check(b"abc\n", "abc");
        check(b"abc\r\n", "abc");
        check(b"a\nb\n\n", "a\nb\n");
        check(b" x ", " x ");
    }

    #[test]
    fn a_piped_value_is_text_and_bounded() {
        assert_eq!(piped(&mut &b""[..], 9).unwrap_err().kind(), Kind::NeedsInput);
        assert_eq!(piped(&mut &b"\n"[..], 9).unwrap_err().kind(), Kind::NeedsInput);
        assert_eq!(piped(&mut &b"\xff"[..], 9).unwrap_err().kind(), Kind::Refused);
        // The vault refuses it; here it is only not read to its end.
        assert_eq!(piped(&mut std::io::repeat(b'x'), MAX_VALUE).unwrap().len(), MAX_VALUE + 3);
    }
}
