//! `tako secrets import`: several secrets at once from a dotenv file, all of them or none.

use std::fs::File;
use std::io::stdin;

use serde_json::json;

use super::{env_of, is_piped, load, piped, tell};
use crate::cli::args::Args;
use crate::cli::commands::Exit;
use crate::cli::config::dotenv;
use crate::cli::config::vault::{MAX_ALL, Vault, check_name, check_value};
use crate::cli::ui::{Ui, units};
use crate::error::{Context, Error, Kind, Result};

/// What is in the file beside the values: names, quotes, comments, escapes.
const MAX_FILE: usize = 4 * MAX_ALL;

/// `tako secrets import [FILE]`.
pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let project = load(ui, args)?;
    let env = env_of(ui, args, &project)?;
    let text = match args.positional(0) {
        Some("-") => piped(&mut stdin().lock(), MAX_FILE)?,
        Some(file) => {
            piped(&mut File::open(file).context(|| format!("read {file}"))?, MAX_FILE).map_err(|e| match e.kind() {
                Kind::NeedsInput => Error::new(Kind::Refused, format!("{file} is empty")),
                _ => e,
            })?
        }
        None if is_piped(args) => piped(&mut stdin().lock(), MAX_FILE)?,
        None => {
            return Err(Error::new(Kind::NeedsInput, "there is no dotenv file to read")
                .hint("name it, as in `tako secrets import .env.production`, or pipe it in with `-`"));
        }
    };
    if text.len() > MAX_FILE {
        return Err(Error::new(Kind::Refused, format!("the dotenv file is larger than {} KiB", MAX_FILE >> 10)));
    }
    let values = dotenv::parse(&text, |name, value| check_name(name).and_then(|()| check_value(name, value)))?;
    if values.is_empty() {
        return Err(Error::new(Kind::Refused, "the dotenv file holds no values"));
    }
    let (changes, vault) = Vault::edit(&project.dir, &project.name, |vault| vault.set(&env, &values))
        .and_then(|changes| Ok((changes, Vault::load(&project.dir, &project.name)?)))?;
    let lists = [("set", &changes.added), ("changed", &changes.changed), ("the same already", &changes.same)];
    for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
        ui.out(&format!("{} {what} for {env}: {}", units::count(names.len(), "secret"), names.join(", ")));
    }
    tell(ui, &vault, &env, &changes);
    ui.event("result", json!({ "env": env, "added": changes.added, "changed": changes.changed, "same": changes.same }));
    Ok(Exit::Done)
}
