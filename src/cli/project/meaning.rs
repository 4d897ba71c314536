//! From `tako.toml` as written to what it means: names, paths, routes and numbers become types, defaults are filled
//! in, and every rule that is broken becomes a problem at its place.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path};

use super::preset_ref::PresetRef;
use super::{Build, Project, Stage};
use crate::cli::build::glob::Globs;
use crate::cli::config::problem::Problem;
use crate::cli::config::section::{Problems, Spanned};
use crate::cli::config::tako_toml::{self as written, Amount, TakoToml};
use crate::cli::detect;
use crate::cli::nearest::did_you_mean;
use crate::proto::manifest::{CPU_MILLI, Limits, MEMORY, Runtime};
use crate::proto::name::{AppName, DEVELOPMENT};
use crate::proto::target::Target;

/// Largest request body that makes sense to allow, 1 TiB.
const MAX_BODY: u64 = 1 << 40;
/// A registry, a path, a tag and a digest: longer names are refused by every registry.
const MAX_IMAGE: usize = 512;

pub(super) type Text = Option<Spanned<String>>;
pub(super) type Texts = Option<Spanned<Vec<Spanned<String>>>>;

/// `None` when a problem was added.
pub(super) fn project(
    dir: &Path,
    file: TakoToml,
    problems: &Problems,
    warn: &mut dyn FnMut(String),
) -> Option<Project> {
    let reader = Reader { dir, problems };
    let name = reader.name(file.name);
    let runtime = reader.runtime(file.runtime);
    let main = file.main.and_then(|main| reader.path(main, "main", 0));
    let preset = file.preset.and_then(|preset| reader.parsed(&preset.at, PresetRef::parse(&preset.value)));
    let runtime_version = reader.word(file.runtime_version, "runtime_version");
    let start = reader.argv(file.start, "start");
    let install = reader.list(file.install);
    let dev = reader.argv(file.dev, "dev");
    let health = reader.health(file.health);
    let release = reader.command(file.release, "release");
    let build = reader.build(file.build);
    let limits = reader.limits(file.limits);

    let base = reader.vars(file.vars, warn);
    let mut vars: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let known: Vec<&str> = file.envs.iter().map(|(name, _)| name.value.as_str()).chain([DEVELOPMENT]).collect();
    for (env, of_env) in file.env_vars {
        if !known.contains(&env.value.as_str()) {
            let guess = did_you_mean(&env.value, known.iter().copied()).map_or(String::new(), |g| format!("; {g}"));
            warn(format!("[vars.{0}] has no effect: there is no [envs.{0}]{guess}", env.value.escape_debug()));
        }
        vars.insert(env.value.clone(), reader.vars(of_env, warn));
    }
    let mut envs = BTreeMap::new();
    for (env_name, env) in file.envs {
        let mut merged = base.clone();
        merged.extend(vars.remove(&env_name.value).unwrap_or_default());
        if let Some((env_name, env)) = reader.env(env_name, env, merged, name.as_ref(), &limits) {
            envs.insert(env_name, env);
        }
    }
    Some(Project {
        dir: dir.into(),
        name: name?,
        runtime: runtime?,
        runtime_version,
        main,
        preset,
        start,
        install,
        dev,
        health,
        release,
        build,
        limits,
        vars: base,
        envs,
    })
}

pub(super) struct Reader<'a> {
    dir: &'a Path,
    problems: &'a Problems,
}

impl Reader<'_> {
    fn name(&self, name: Text) -> Option<AppName> {
        let Some(name) = name else {
            let dir = self.dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let found = AppName::from_dir(&dir);
            if found.is_none() {
                self.problem_around(
                    "the app has no name, and that of its directory cannot be one",
                    "add a line to tako.toml such as: name = \"my-app\"",
                );
            }
            return found;
        };
        self.parsed(&name.at, AppName::parse(&name.value))
    }

    fn runtime(&self, runtime: Text) -> Option<Runtime> {
        match runtime {
            Some(runtime) => {
                let parsed = Runtime::parse(&runtime.value);
                if parsed.is_none() {
                    let known = ["bun", "node", "deno", "binary"];
                    let fix = did_you_mean(&runtime.value, known).unwrap_or("use bun, node, deno or binary".into());
                    self.problem(&runtime.at, format!("`{}` is not a runtime", shown(&runtime.value)), fix);
                }
                parsed
            }
            None => {
                let found = detect::runtime(self.dir);
                if found.is_none() {
                    self.problem_around(
                        "the runtime of this project is not clear: there is no package.json, bun.lock or deno.json",
                        "add a line to tako.toml such as: runtime = \"bun\" (or node, deno, binary)",
                    );
                }
                found
            }
        }
    }

    /// What ends up as a word in other files and arguments.
    fn word(&self, text: Text, key: &str) -> Option<String> {
        let text = text?;
        let good = (1..=64).contains(&text.value.len())
            && text.value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.value.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+_".contains(&b));
        if !good {
            self.problem(&text.at, format!("`{}` is not a valid {key}", shown(&text.value)), "write it like \"1.3.2\"");
            return None;
        }
        Some(text.value)
    }

    fn argv(&self, list: Texts, key: &str) -> Option<Vec<String>> {
        let at = list.as_ref()?.at.clone();
        let words = self.list(list)?;
        if words.first().is_none_or(String::is_empty) {
            self.problem(&at, format!("`{key}` names no program"), "write it like [\"bun\", \"run\", \"{main}\"]");
            return None;
        }
        Some(words)
    }

    /// Texts that will be arguments.
    fn list(&self, list: Texts) -> Option<Vec<String>> {
        let list = list?.value;
        for text in list.iter().filter(|t| t.value.contains('\0')) {
            self.problem(&text.at, "an argument cannot hold a zero byte", "remove it");
        }
        Some(list.into_iter().map(|t| t.value).collect())
    }

    fn health(&self, path: Text) -> Option<String> {
        let path = path?;
        let good = path.value.starts_with('/')
            && path.value.len() <= 1024
            && path.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if !good {
            let message = format!("`{}` is not a path to ask for health", shown(&path.value));
            self.problem(&path.at, message, "write it like \"/health\"");
            return None;
        }
        Some(path.value)
    }

    fn build(&self, build: written::Build) -> Build {
        Build {
            install: self.command(build.install, "build.install"),
            run: self.command(build.run, "build.build"),
            include: self.globs(build.include),
            exclude: self.globs(build.exclude),
            assets: self.assets(build.assets),
            targets: self.targets(build.targets),
            container: build.container.map(|c| c.value),
            image: self.image(build.image),
            stages: build.stages.into_iter().filter_map(|stage| self.stage(stage)).collect(),
        }
    }

    fn targets(&self, targets: Texts) -> Vec<Target> {
        let mut found = Vec::new();
        for text in targets.map(|t| t.value).unwrap_or_default() {
            match self.parsed(&text.at, Target::parse(&text.value)) {
                Some(target) if found.contains(&target) => {
                    self.problem(&text.at, format!("`{target}` is in `targets` twice"), "remove one of the two");
                }
                target => found.extend(target),
            }
        }
        found
    }

    /// It becomes an argument of `docker`: what is no name of an image must not be taken for an option.
    fn image(&self, image: Text) -> Option<String> {
        let image = image?;
        let good = (1..=MAX_IMAGE).contains(&image.value.len())
            && image.value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && image.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
        if !good {
            let message = format!("`{}` is not the name of an image", shown(&image.value));
            self.problem(&image.at, message, "write it like \"ghcr.io/me/builder:v1\"");
            return None;
        }
        Some(image.value)
    }

    fn stage(&self, stage: written::Stage) -> Option<Stage> {
        let depth = self.dir.strip_prefix(detect::source_root(self.dir)).map_or(0, |below| below.components().count());
        let install = self.command(stage.install, "install");
        let working_dir = stage.working_dir.and_then(|dir| self.path(dir, "working_dir", depth));
        if stage.run.is_none() {
            self.problem(&stage.at, "this build stage runs nothing", "add a line such as: run = \"bun run build\"");
        }
        Some(Stage { name: stage.name.map(|n| n.value), working_dir, install, run: self.command(stage.run, "run")? })
    }

    fn command(&self, command: Text, key: &str) -> Option<String> {
        let command = command?;
        if command.value.trim().is_empty() || command.value.contains('\0') {
            self.problem(&command.at, format!("`{key}` is no command"), "write one, or remove the line");
            return None;
        }
        Some(command.value)
    }

    fn globs(&self, globs: Texts) -> Vec<String> {
        let globs = globs.map(|g| g.value).unwrap_or_default();
        let good = |glob: &Spanned<String>| self.parsed(&glob.at, Globs::parse(std::slice::from_ref(&glob.value)));
        globs.into_iter().filter(|glob| good(glob).is_some()).map(|glob| glob.value).collect()
    }

    fn assets(&self, folders: Texts) -> Vec<String> {
        let mut read = Vec::new();
        for folder in folders.map(|f| f.value).unwrap_or_default() {
            let whole = Path::new(&folder.value).components().all(|c| c == Component::CurDir);
            if whole && !folder.value.is_empty() {
                let message = format!("`{}` in `assets` is the whole app, its sources included", shown(&folder.value));
                self.problem(&folder.at, message, "name the folders that everybody may see, such as \"dist/client\"");
                continue;
            }
            read.extend(self.path(folder, "assets", 0));
        }
        read
    }

    /// A relative path that climbs at most `depth` folders above the app's.
    fn path(&self, path: Spanned<String>, key: &str, depth: usize) -> Option<String> {
        let why = match climb(&path.value) {
            _ if path.value.trim().is_empty() => "is empty",
            _ if path.value.contains(|c: char| c.is_control()) => "has a control character",
            None => "is not relative",
            Some(_) if depth == 0 && path.value.split('/').any(|part| part == "..") => "leaves the app's directory",
            Some(up) if up > depth => "leaves the source tree",
            Some(_) => return Some(path.value),
        };
        let fix = match depth {
            0 => "write a path inside the app's directory, without `..`",
            _ => "write a path inside the source tree",
        };
        self.problem(&path.at, format!("`{}` in `{key}` {why}", shown(&path.value)), fix);
        None
    }

    /// The times are those of the environments.
    fn limits(&self, written: written::Limits) -> Limits {
        let default = Limits::default();
        let up_to_tib = "write it like \"128M\", with K, M or G, up to \"1024G\"";
        let up_to_16_tib = "write it like \"512M\", with K, M or G, from \"1M\" to \"16384G\"";
        Limits {
            request_body: self
                .bytes(written.request_body, "request_body", &(1..=MAX_BODY), up_to_tib)
                .unwrap_or(default.request_body),
            memory: self.bytes(written.memory, "memory", &MEMORY, up_to_16_tib),
            cpu_milli: self.cpu(written.cpu),
            processes: written.processes.and_then(|n| u32::try_from(n.value).ok()),
            ..default
        }
    }

    fn bytes(&self, amount: Option<Spanned<Amount>>, key: &str, range: &RangeInclusive<u64>, fix: &str) -> Option<u64> {
        let amount = amount?;
        let bytes = match &amount.value {
            Amount::Bytes(bytes) => u64::try_from(*bytes).ok(),
            Amount::Text(text) => size(text),
        };
        let Some(bytes) = bytes else {
            self.problem(&amount.at, format!("`{key}` is not a size"), fix);
            return None;
        };
        let inside = range.contains(&bytes);
        if !inside {
            self.problem(&amount.at, format!("`{key}` is out of range"), fix);
        }
        inside.then_some(bytes)
    }

    /// Cores, to a thousandth.
    fn cpu(&self, cores: Option<Spanned<f64>>) -> Option<u32> {
        let cores = cores?;
        let milli = (cores.value * 1000.0).round();
        let inside = (f64::from(*CPU_MILLI.start())..=f64::from(*CPU_MILLI.end())).contains(&milli);
        if !inside {
            let fix = "write cores, such as 0.5 or 2, from 0.01 to 1024";
            self.problem(&cores.at, format!("`cpu = {}` is out of range", cores.value), fix);
        }
        // In range, it is a small whole number.
        inside.then_some(milli as u32)
    }

    pub(super) fn parsed<T>(&self, at: &Range<usize>, parsed: crate::error::Result<T>) -> Option<T> {
        parsed.map_err(|e| self.problems.add(Problem::of(at, &e))).ok()
    }

    pub(super) fn problem(&self, at: &Range<usize>, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.add(Problem::at(at, message, fix));
    }

    /// A problem of the project rather than of a place in the file.
    fn problem_around(&self, message: &str, fix: &str) {
        self.problems.add(Problem { message: message.into(), at: None, fix: Some(fix.into()) });
    }
}

/// How many folders a relative path climbs above its start at its highest point; `None` for an absolute one.
fn climb(path: &str) -> Option<usize> {
    let (mut depth, mut highest) = (0_usize, 0_usize);
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir => highest += 1,
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(highest)
}

/// `512`, `64K`, `128M`, `2G`, also with `B` or `iB` behind; the letters are powers of 1024.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << unit)
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_with_units() {
        let check = |text: &str, expected| assert_eq!(size(text), expected, "{text}");
        check("0", Some(0));
        check("128M", Some(128 << 20));
        check("64 kb", Some(64 << 10));
        check("2GiB", Some(2 << 30));
        check("", None);
        check("M", None);
        check("1.5M", None);
        check("-1", None);
        check("99999999999999999999", None);
        check("18446744073709551615K", None);
    }

    #[test]
    fn knows_how_far_a_path_climbs() {
        let check = |path: &str, expected| assert_eq!(climb(path), expected, "{path}");
        check("a/b", Some(0));
        check("./a/../b", Some(0));
        check("../a", Some(1));
        check("a/../../..", Some(2));
        check("/a", None);
    }
}
