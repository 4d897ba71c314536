//! `tako secrets key`: the key of an environment, on its way to a colleague's machine or to CI.
//!
//! It is printed to nobody's screen unless that is asked for, and a key that is here is not replaced by another one unless
//! somebody agreed to lose it.

use std::io::{IsTerminal, stdin, stdout};

use serde_json::json;

use super::{env_of, is_piped, load, piped};
use crate::cli::args::Args;
use crate::cli::commands::Exit;
use crate::cli::config::keyring::{self, Found};
use crate::cli::config::vault::Vault;
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};

/// `tako secrets key export`.
pub(crate) fn export(ui: &Ui, args: &Args) -> Result<Exit> {
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let variable = keyring::variable(&env);
    if ui.is_json() {
        return Err(Error::new(Kind::Usage, "a key is printed as it is, never in an event").hint("leave `--json` out"));
    }
    if stdout().is_terminal() && !args.flag("show") {
        return Err(Error::new(Kind::Usage, "standard output is a screen, and a key does not belong there").hint(
            format!(
                "pipe it, as in `tako secrets key export --env {env} | gh secret set {variable}`, or give `--show`"
            ),
        ));
    }
    let key = Vault::load(&project.dir, &project.name)?.key(&env)?;
    ui.out(keyring::text(&key).trim_end());
    ui.note(&format!("whoever has this key can read every secret of {env}; in CI it goes into {variable}"));
    Ok(Exit::Done)
}

/// `tako secrets key import`.
pub(crate) fn import(ui: &Ui, args: &Args) -> Result<Exit> {
    let from_stdin = match args.positional(0) {
        Some("-") => true,
        Some(_) => {
            return Err(Error::new(Kind::Usage, "a key is never an argument: everybody on this machine could see it")
                .hint("run `tako secrets key import` and paste it, or pipe it in with `-`"));
        }
        None => is_piped(args),
    };
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let vault = Vault::load(&project.dir, &project.name)?;
    let text = match from_stdin {
        true => piped(&mut stdin().lock(), keyring::MAX_TEXT as usize)?,
        false => ui.ask_secret(&format!("Key of {env}"), "the key on standard input and `-`")?,
    };
    let from = if from_stdin { "standard input" } else { "what was typed" };
    let found = Found { key: keyring::parse(&text, from)?, from: from.into() };
    let tried = vault.try_key(&env, &found)?;
    let path = vault.keys.path(&env);

    let there = vault.keys.in_file(&env);
    let same = there.as_ref().is_ok_and(|there| there.as_ref().is_some_and(|k| k.as_bytes() == found.key.as_bytes()));
    if same {
        ui.out(&format!("the key of {env} is here already"));
    } else {
        // A file that holds no key may be one in another form: it is not ours to throw away either.
        let is_taken = there.map_or(true, |key| key.is_some());
        let question = format!("replace the key of {env} in {}? what only the old one opens is lost", path.display());
        if is_taken && !ui.confirm(&question, "--yes")? {
            return Err(Error::new(Kind::Interrupted, "nothing was changed"));
        }
        vault.keys.put(&env, &found.key)?;
        ui.out(&format!("the key of {env} is in {}", path.display()));
    }
    match tried {
        true => ui.note(&format!("it opens every secret of {env}")),
        false => ui.note(&format!("{env} has no secrets yet that it could be tried on")),
    }
    ui.event("result", json!({ "env": env, "path": path, "changed": !same, "tried": tried }));
    Ok(Exit::Done)
}
