//! Fit: which artifact goes to which server.
//!
//! Where `targets` are named, each server gets the artifact of its own. Where none are, there is one artifact, built on
//! this machine; scripts run anywhere, and so it goes to any server that nothing compiled in it speaks against. Most
//! apps of a script runtime are like that: their packages are installed on the server.

use super::native::misfit;
use super::{Built, Order};
use crate::error::{Error, Kind, Result};
use crate::proto::target::Target;

/// Whether there will be an artifact for `server`, as far as it can be told before the build.
///
/// # Errors
/// Config naming the target that is missing.
pub(crate) fn check(order: &Order, server: &str, target: Target) -> Result<()> {
    match order.named && !order.targets.contains(&target) {
        true => {
            let message = format!("{server}: it is {target}, and this project is not built for that");
            Err(Error::new(Kind::Config, message).hint(with_it(order, target)))
        }
        false => Ok(()),
    }
}

/// The artifact for `server`.
///
/// # Errors
/// Config naming the file that does not run there.
pub(crate) fn pick<'a>(order: &Order, built: &'a [Built], server: &str, target: Target) -> Result<&'a Built> {
    check(order, server, target)?;
    let found = built.iter().find(|b| b.target == target).or(built.first());
    let found = found.ok_or_else(|| Error::new(Kind::Bug, "nothing was built"))?;
    match misfit(&found.natives, target) {
        None => Ok(found),
        Some(native) => {
            let message =
                format!("{server}: it is {target}, and `{}` was compiled for {}", native.file, native.machine());
            Err(Error::new(Kind::Config, message).hint(with_it(order, target)))
        }
    }
}

fn with_it(order: &Order, target: Target) -> String {
    let named = order.targets.iter().filter(|_| order.named).copied().chain([target]);
    let list = named.map(|target| format!("\"{target}\"")).collect::<Vec<_>>().join(", ");
    match order.named {
        true => format!("write `targets = [{list}]` in [build] of tako.toml"),
        false => format!("write `targets = [{list}]` and `container = true` in [build], to build it for that server"),
    }
}
