//! What a release says of itself, for people and their tools: `app.json` and `mise.toml` in its root. The server itself
//! goes by its state.
//!
//! **Invariant**: what is there already and right costs nothing; a link that the app brought is neither followed nor
//! written through.

use std::fs;
use std::path::Path;

use serde::Serialize;
use toml_edit::{DocumentMut, Item, value};

use super::super::layout::Layout;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::manifest::{Manifest, Runtime};
use crate::proto::name::{AppName, EnvName};

/// A mise.toml beyond this is no list of tools.
const MAX_MISE: u64 = 1 << 20;

/// Writes into the release what it is. What is there already costs nothing.
pub(crate) fn describe(layout: &Layout, manifest: &Manifest) -> Result<()> {
    let dir = layout.release(&manifest.app, &manifest.version);
    let doing = || format!("describe {} of {}", manifest.version, manifest.app);
    let told = Told { app: &manifest.app.app, env: &manifest.app.env, rest: rest(manifest).context(doing)? };
    let mut json = serde_json::to_vec_pretty(&told).context(doing)?;
    json.push(b'\n');
    write_if_other(&dir.join("app.json"), &json)?;
    match manifest.runtime {
        Runtime::Binary => Ok(()),
        runtime => record_version(&dir, runtime, manifest.runtime_version.as_deref().unwrap_or("latest")),
    }
}

/// The manifest with the name and the environment apart.
#[derive(Serialize)]
struct Told<'a> {
    app: &'a AppName,
    env: &'a EnvName,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

fn rest(manifest: &Manifest) -> serde_json::Result<serde_json::Map<String, serde_json::Value>> {
    let mut rest = match serde_json::to_value(manifest)? {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    rest.remove("app");
    Ok(rest)
}

/// Says in `mise.toml` which version of the runtime the release was built with. One that the app brought keeps all else
/// that it says; one that is no TOML is the app's own business.
fn record_version(dir: &Path, runtime: Runtime, version: &str) -> Result<()> {
    let file = dir.join("mise.toml");
    let there = match file.symlink_metadata() {
        Ok(found) if found.is_file() => disk::read_if_there(&file, MAX_MISE).ok().flatten(),
        Ok(_) => None,
        Err(_) => Some(Vec::new()),
    };
    let Some(text) = there.and_then(|bytes| String::from_utf8(bytes).ok()) else { return Ok(()) };
    match with_version(&text, runtime.as_str(), version) {
        Some(written) => write_if_other(&file, written.as_bytes()),
        None => Ok(()),
    }
}

/// `None` when there is nothing to change, or no way to.
fn with_version(text: &str, tool: &str, version: &str) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let tools = document.entry("tools").or_insert_with(toml_edit::table).as_table_like_mut()?;
    match tools.get_mut(tool) {
        // Nothing is known that would be better.
        Some(_) if version == "latest" => return None,
        Some(Item::Value(old)) if old.as_str() == Some(version) => return None,
        Some(Item::Value(toml_edit::Value::InlineTable(options))) => {
            options.insert("version", version.into());
        }
        Some(Item::Table(options)) => {
            options.insert("version", value(version));
        }
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = version.into();
            *old.decor_mut() = decor;
        }
        Some(Item::None | Item::ArrayOfTables(_)) | None => {
            tools.insert(tool, value(version));
        }
    }
    Some(document.to_string())
}

fn write_if_other(file: &Path, bytes: &[u8]) -> Result<()> {
    // An installer may have put anything there: what is not a file is replaced without a look into it.
    let is_like_it = fs::symlink_metadata(file).is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64);
    match is_like_it && fs::read(file).is_ok_and(|there| there == bytes) {
        true => Ok(()),
        false => disk::write_atomic(file, bytes, 0o644),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_version_is_recorded_and_the_rest_is_kept() {
        let check = |before: &str, version: &str, after: Option<&str>| {
            assert_eq!(with_version(before, "node", version).as_deref(), after, "{before}");
        };
        check("", "22.1.0", Some("[tools]\nnode = \"22.1.0\"\n"));
        check("", "latest", Some("[tools]\nnode = \"latest\"\n"));
        check("[tools]\nnode = \"22.1.0\"\n", "22.1.0", None);
        check("[tools]\nnode = \"lts\"\n", "latest", None);
        check(
            "# ours\n[tools]\nnode = \"22\" # pinned\njq = \"1\"\n[env]\nA = \"b\"\n",
            "22.1.0",
            Some("# ours\n[tools]\nnode = \"22.1.0\" # pinned\njq = \"1\"\n[env]\nA = \"b\"\n"),
        );
        check("[tools]\nnode = [\"22\", \"20\"]\n", "22.1.0", Some("[tools]\nnode = \"22.1.0\"\n"));
        check(
            "tools.node = { version = \"22\", postinstall = \"x\" }\n",
            "22.1.0",
            Some("tools.node = { version = \"22.1.0\", postinstall = \"x\" }\n"),
        );
        check("[tools.node]\nversion = \"22\"\n", "22.1.0", Some("[tools.node]\nversion = \"22.1.0\"\n"));
        check("[env]\nA = \"b\"\n", "22.1.0", Some("[env]\nA = \"b\"\n\n[tools]\nnode = \"22.1.0\"\n"));
        check("tools = 1\n", "22.1.0", None);
        check("not toml", "22.1.0", None);
    }

    #[test]
    fn a_link_in_its_place_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "kept").unwrap();
        symlink("other", dir.path().join("mise.toml")).unwrap();
        record_version(dir.path(), Runtime::Node, "22.1.0").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("other")).unwrap(), "kept");
        assert!(dir.path().join("mise.toml").is_symlink());
    }
}
