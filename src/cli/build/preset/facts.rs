//! What lies in the project, as far as the defaults depend on it: whether there is something to build, and whether what
//! it needs is installed.
//!
//! It runs nothing. A `package.json` that cannot be read is an error, since all that follows hangs on it; Deno's own file
//! says nothing then, and Deno says what is wrong with it.

use serde_json::Value;

use crate::cli::build::bundle::Source;
use crate::cli::detect::deno::DenoFile;
use crate::cli::project::Project;
use crate::disk;
use crate::error::{Context, Kind, Result};
use crate::proto::manifest::Runtime;

/// Larger files are something else.
const MAX_JSON: u64 = 1 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `package.json` has a `build` script, or Deno's file a `build` task.
    pub build_script: bool,
    /// One of them names packages that a build may need.
    pub dependencies: bool,
    /// `package.json` names packages that the app needs when it runs.
    pub in_production: bool,
    /// `node_modules` lies in the app or the source root.
    pub installed: bool,
}

impl Facts {
    pub fn of(project: &Project, source: &Source) -> Result<Facts> {
        let path = project.dir.join("package.json");
        let package: Value = match disk::read_if_there(&path, MAX_JSON)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .context(|| format!("understand {}", path.display()))
                .map_err(|e| e.with_kind(Kind::Config))?,
            None => Value::Null,
        };
        let deno = (project.runtime == Runtime::Deno).then(|| DenoFile::of(&project.dir)).flatten();
        let some = |value: &Value| value.as_object().is_some_and(|o| !o.is_empty());
        let command = |value: &Value| value.as_str().is_some_and(|s| !s.trim().is_empty());
        let there = |name: &str| project.dir.join(name).exists() || source.root.join(name).exists();
        Ok(Facts {
            build_script: command(&package["scripts"]["build"]) || deno.as_ref().is_some_and(|d| d.has_task("build")),
            dependencies: some(&package["dependencies"])
                || some(&package["devDependencies"])
                || deno.is_some_and(|deno| deno.imports_any()),
            in_production: some(&package["dependencies"]),
            installed: there("node_modules"),
        })
    }
}
