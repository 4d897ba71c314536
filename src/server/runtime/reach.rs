//! Reach: whether an app's user can start a program, and a copy for apps of one that only we can.
//!
//! Whoever installed a runtime for root alone, as its installer's script does below `/root`, wants it to run apps all
//! the same. A program that is one file is copied into the cache; anything else is refused with the way out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::install::{self, Run};
use super::super::layout::Layout;
use super::super::owner;
use super::fetch::{self, Staging};
use super::find;
use crate::archive::unpack;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::sys::User;

/// A program says its version within this, or it does not run.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The program itself when `user` can start it, else a copy that everybody can.
///
/// # Errors
/// Refused when it cannot be reached and is not one file that runs by itself.
pub(super) fn reachable(layout: &Layout, runtime: Runtime, program: PathBuf, user: Option<User>) -> Result<PathBuf> {
    let bars = user.and_then(|user| Some((user, owner::who_bars(&program, user)?)));
    let Some((user, bars)) = bars else { return Ok(program) };
    let tool = runtime.as_str();
    let refused = |why: &str| {
        let message = format!(
            "{} cannot be started by the users of apps: {bars} is closed to them, and {why}",
            program.display()
        );
        Error::new(Kind::Refused, message)
            .hint(format!("install {tool} where everybody can reach it, such as /usr/local/bin"))
    };
    if !is_program_of_machine(&program) {
        return Err(refused("it is a script, not a program that could be copied"));
    }
    let version = find::version_of(layout, &program).ok_or_else(|| refused("it does not say its version"))?;
    let place = find::program_in(&layout.runtime(tool, &version), tool);
    if find::is_program(&place) {
        return Ok(place);
    }
    let staging = Staging::new(layout, &format!("{tool}-{version}"))?;
    let dir = staging.0.join("tool");
    let copied = find::program_in(&dir, tool);
    fetch::open_dir(&staging.0)?;
    fetch::open_dir(&dir)?;
    fetch::open_dir(&dir.join("bin"))?;
    let mut from = File::open(&program).context(|| format!("read {}", program.display()))?;
    unpack::copy(&mut from, &mut disk::create_new(&copied, 0o755)?)
        .context(|| format!("copy {}", program.display()))?;
    if !runs(layout, &copied, user) {
        return Err(refused("a copy of it does not run by itself"));
    }
    log::info!("{tool} {version} is copied for apps, which cannot reach {}", program.display());
    fetch::put(layout, runtime, &version, &dir)
}

pub(crate) fn may_start(program: &Path, user: User) -> bool {
    owner::who_bars(program, user).is_none()
}

fn is_program_of_machine(program: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(program).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn runs(layout: &Layout, program: &Path, user: User) -> bool {
    let argv = [program.into(), "--version".into()];
    let env = install::environment(find::path_with(&[]), &layout.cache(), &std::env::temp_dir());
    let run = Run { argv: &argv, dir: "/".into(), env, limit: ANSWER_TIME, user: Some(user), low: false, kept: None };
    run.finish(&|| false).is_ok_and(|e| e.status.success() && find::said_version(&e.lines.join("\n")).is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_only_we_may_pass_hides_what_is_below() {
        let user = User { uid: 70_001, gid: 70_001 };
        assert!(may_start(Path::new("/bin/sh"), user));
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sh");
        fs::copy("/bin/sh", &program).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!may_start(&program, user));
    }
}
