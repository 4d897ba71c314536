//! `tako secrets`: the vault of this project. A value comes from a hidden prompt or from standard input, never from an
//! argument, where other users of the machine could read it.

use std::io::{IsTerminal, Read, stdin};

use serde_json::json;
use zeroize::Zeroizing;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::config::vault::{MAX_VALUE, Vault, check_name};
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
        None => !stdin().is_terminal() && !args.flag("no-input"),
    };
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let mut vault = Vault::load(&project.dir, &project.name)?;
    let value = match from_stdin {
        true => piped(&mut stdin().lock())?,
        false => ui.ask_secret(&format!("Value of {name} for {env}"), "the value on standard input and `-`")?,
    };
    let replaced = vault.has(&env, name);
    let new_key = vault.set(&env, name, &value)?;
    vault.save()?;
    if new_key {
        ui.note(&format!(
            "a new key was made: {} (whoever deploys needs it; keep a copy in a safe place)",
            vault.key_path(&env).display()
        ));
    }
    ui.out(&format!("{name} {} for {env}", if replaced { "changed" } else { "set" }));
    ui.note("it takes effect with the next `tako deploy`");
    ui.event("result", json!({ "name": name, "env": env, "replaced": replaced }));
    Ok(Exit::Done)
}

/// `tako secrets rm NAME`.
pub(crate) fn rm(ui: &Ui, args: &Args) -> Result<Exit> {
    let name = args.positional(0).unwrap_or_default();
    check_name(name).map_err(|e| e.with_kind(Kind::Usage))?;
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let mut vault = Vault::load(&project.dir, &project.name)?;
    let removed = vault.remove(&env, name);
    if removed {
        vault.save()?;
        ui.out(&format!("{name} removed from {env}"));
        ui.note("it takes effect with the next `tako deploy`");
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

/// A value from a pipe, without the line end that `echo` adds.
fn piped(input: &mut impl Read) -> Result<Zeroizing<String>> {
    // Room for all of it at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 8));
    input.take(MAX_VALUE as u64 + 3).read_to_end(&mut bytes).context(|| "read the value from standard input".into())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Error::new(Kind::Refused, "the value on standard input is not UTF-8").hint("encode it, for example in base64")
    })?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    match text.is_empty() {
        true => Err(Error::new(Kind::NeedsInput, "there is no value on standard input")
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
        let check = |bytes: &[u8], expected: &str| assert_eq!(piped(&mut &*bytes).unwrap().as_str(), expected);
        check(b"abc", "abc");
        check(b"abc\n", "abc");
        check(b"abc\r\n", "abc");
        check(b"a\nb\n\n", "a\nb\n");
        check(b" x ", " x ");
    }

    #[test]
    fn a_piped_value_is_text_and_bounded() {
        assert_eq!(piped(&mut &b""[..]).unwrap_err().kind(), Kind::NeedsInput);
        assert_eq!(piped(&mut &b"\n"[..]).unwrap_err().kind(), Kind::NeedsInput);
        assert_eq!(piped(&mut &b"\xff"[..]).unwrap_err().kind(), Kind::Refused);
        // The vault refuses it; here it is only not read to its end.
        assert_eq!(piped(&mut std::io::repeat(b'x')).unwrap().len(), MAX_VALUE + 3);
    }
}
