//! Environment: all that an instance finds in its environment; nothing is inherited.
//!
//! **Invariant**: what Tako promises is so whatever the app's own vars say, and no secret is among it.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::proto::manifest::Manifest;
use crate::server::layout::Layout;
use crate::sys::BOOTSTRAP_FD;

/// The whole environment: little of the server's, the app's own, then what Tako promises, which nothing overrides. The
/// folders of `runtime` come first on PATH.
pub(super) fn environment(
    manifest: &Manifest,
    runtime: &[PathBuf],
    port: u16,
    layout: &Layout,
    home: Option<PathBuf>,
    server: impl Fn(&str) -> Option<OsString>,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let theirs = server("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let path = env::join_paths(runtime.iter().cloned().chain(env::split_paths(&theirs))).unwrap_or(theirs);
    env.push(("PATH".into(), path));
    let home = home.map(OsString::from).or_else(|| server("HOME"));
    env.extend(home.map(|home| ("HOME".into(), home)));
    env.push(("TMPDIR".into(), layout.app_tmp(&manifest.app).into()));
    env.extend(["LANG", "TZ"].into_iter().filter_map(|name| Some((name.into(), server(name)?))));
    env.extend(manifest.vars.iter().map(|(name, value)| (name.into(), value.into())));

    let mode = if manifest.app.env.is_development() { "development" } else { "production" };
    let stage = manifest.app.env.as_str();
    let (port, fd) = (port.to_string(), BOOTSTRAP_FD.to_string());
    let own = [
        ("ENV", stage),
        ("TAKO_ENV", stage),
        ("TAKO_BUILD", manifest.version.as_str()),
        ("NODE_ENV", mode),
        ("BUN_ENV", mode),
        ("DENO_ENV", mode),
        ("HOST", "127.0.0.1"),
        ("PORT", &port),
        ("TAKO_BOOTSTRAP_FD", &fd),
    ];
    env.extend(own.into_iter().map(|(name, value)| (name.into(), value.into())));
    env.push(("TAKO_DATA_DIR".into(), layout.app_data(&manifest.app).into()));
    each_once(env)
}

/// The last of a name wins: of two that a program is given, most look at the first (getenv(3)).
pub(super) fn each_once(env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<_> = env.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::manifest::{Limits, Runtime};
    use crate::proto::name::AppId;
    use crate::proto::version::Version;

    #[test]
    fn an_app_sees_its_vars_and_what_tako_promises_and_nothing_else() {
        let manifest = Manifest {
            app: AppId::parse("shop.staging").unwrap(),
            version: Version::parse("v1").unwrap(),
            runtime: Runtime::Node,
            runtime_version: None,
            dir: String::new(),
            main: "index.js".into(),
            start: None,
            install: None,
            health: None,
            vars: [("COLOR".to_string(), "red".to_string()), ("PORT".to_string(), "1".to_string())].into(),
            limits: Limits::default(),
            commit_message: None,
            git_dirty: false,
        };
        let runtime = ["/rt/bin".into()];
        let server = |name: &str| match name {
            "PATH" => Some("/usr/bin:/bin".into()),
            "HOME" => Some("/root".into()),
            "AWS_SECRET" => Some("leak".into()),
            _ => None,
        };
        let env = environment(&manifest, &runtime, 4000, &Layout::new("/data".into()), None, server);
        let own = environment(&manifest, &runtime, 0, &Layout::new("/data".into()), Some("/home/app".into()), server);
        assert!(own.contains(&("HOME".into(), "/home/app".into())) && !own.contains(&("HOME".into(), "/root".into())));
        let count = env.len();
        let env: BTreeMap<String, String> =
            env.into_iter().map(|(k, v)| (k.into_string().unwrap(), v.into_string().unwrap())).collect();
        assert_eq!(env.len(), count, "a name is there once");
        let expected = [
            ("BUN_ENV", "production"),
            ("COLOR", "red"),
            ("DENO_ENV", "production"),
            ("ENV", "staging"),
            ("HOME", "/root"),
            ("HOST", "127.0.0.1"),
            ("NODE_ENV", "production"),
            ("PATH", "/rt/bin:/usr/bin:/bin"),
            ("PORT", "4000"),
            ("TAKO_BOOTSTRAP_FD", "3"),
            ("TAKO_BUILD", "v1"),
            ("TAKO_DATA_DIR", "/data/apps/shop.staging/shared/data"),
            ("TAKO_ENV", "staging"),
            ("TMPDIR", "/data/apps/shop.staging/tmp"),
        ];
        assert_eq!(env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }
}
