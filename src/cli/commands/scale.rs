//! `tako scale N`: how many instances run on each server, until the next deploy says otherwise.

use super::{Exit, aim, change};
use crate::cli::args::Args;
use crate::cli::interrupt::Interrupt;
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Request;
use crate::proto::manifest::MAX_INSTANCES;

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let instances = count(args.positional(0).unwrap_or_default())?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = project.env(&env_name)?;
    let servers = aim::servers(&env_name, env, &aim::wanted(args)?)?;
    let app = aim::app(&project, &env_name);
    let exit = change::on_servers(ui, servers, &interrupt, || Request::Scale { app: app.clone(), instances })?;
    if exit == Exit::Done && env.instances != instances {
        ui.note(&format!("the next deploy scales it to {} again: see `instances` in [envs.{env_name}]", env.instances));
    }
    Ok(exit)
}

fn count(word: &str) -> Result<u32> {
    match word.parse() {
        Ok(n) if n <= MAX_INSTANCES => Ok(n),
        _ => Err(Error::new(Kind::Usage, format!("`{}` is not a number of instances", word.escape_debug()))
            .hint(format!("give 0 (on demand) to {MAX_INSTANCES}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_a_server_takes() {
        assert_eq!((count("0").unwrap(), count("64").unwrap()), (0, 64));
        for bad in ["", "65", "-1", "two", "1.5"] {
            assert_eq!(count(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
