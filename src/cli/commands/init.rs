//! `tako init`: a first `tako.toml`, from what can be detected and a question or two.
//!
//! Flags count most, then what the project's files say, then the person. All answers come before anything is written,
//! so that Ctrl-C at a question leaves the project as it was.

mod look;
mod text;
mod ignore;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::json;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::build::preset::built_in;
use crate::cli::config::inventory::Inventory;
use crate::cli::detect;
use crate::cli::nearest::did_you_mean;
use crate::cli::project::preset_ref::PresetRef;
use crate::cli::project::{self, FILE};
use crate::cli::ui::Ui;
use crate::disk::{read_if_there, write_atomic};
use crate::error::{Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::name::{AppName, ServerName};
use crate::proto::route::Route;
use ignore::Ignored;
use look::{Found, Seen};
use text::Start;

/// How often a question is asked again after an answer that cannot be.
const TRIES: usize = 5;
/// A file in the way that is larger is none of ours; it is not compared.
const MAX_FILE: u64 = 1 << 20;
const RUNTIMES: [&str; 4] = ["bun", "node", "deno", "binary"];

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let dir = args.dir()?;
    let given = args.value("runtime").map(runtime_of).transpose()?;
    let found = Found::of(&dir, given);
    let apps = look::apps_below(&dir);
    if let (Some(first), None) = (apps.first(), args.value("main")) {
        let first = dir.join(first).display().to_string();
        let here = std::path::absolute(".").ok().map(|here| format!("{}/", here.display())).unwrap_or_default();
        let first = first.strip_prefix(&here).unwrap_or(&first);
        return Err(Error::new(
            Kind::Config,
            "this is the root of a workspace, and an app of it is deployed by itself",
        )
        .with_detail(apps.clone())
        .hint(format!("run `tako init --dir {first}`; give `--main FILE` if this folder is the app")));
    }
    let wanted = Wanted::of(args, &dir)?;
    tell(ui, &dir, &found);
    let start = wanted.answered(ui, &dir, found)?;
    write(ui, args, &dir, &start)
}

/// What was found, before anything is asked.
fn tell(ui: &Ui, dir: &Path, found: &Found) {
    let mut rows: Vec<(&str, &str, String)> = Vec::new();
    if let Some(Seen { value, why }) = &found.runtime {
        rows.push(("runtime", value.as_str(), why.clone()));
    }
    if let Some(Seen { value, why }) = &found.preset {
        rows.push(("preset", value, why.clone()));
    }
    if let Some(habit) = &found.habit {
        rows.push(("main", habit, "found here".into()));
    }
    if let Some(Seen { value, why }) = &found.main {
        rows.push(("main", value, why.clone()));
    }
    if let Some(Seen { value, why }) = &found.build {
        rows.push(("build", value, why.clone()));
    }
    let (install, start) = (words(found.install.as_ref()), words(found.start.as_ref()));
    if let Some(install) = &install {
        rows.push(("install", install, String::new()));
    }
    if let Some(start) = &start {
        rows.push(("start", start, String::new()));
    }
    if let Some(Seen { value, why }) = &found.health {
        rows.push(("health", value, why.clone()));
    }
    if let Some(Seen { value, why }) = &found.packages {
        rows.push(("packages", value, why.clone()));
    }
    let root = detect::source_root(dir);
    let below = dir.strip_prefix(root).map(|p| p.display().to_string()).unwrap_or_default();
    let whole = "the repository is the source".to_string();
    if !below.is_empty() {
        rows.push(("app", &below, whole));
    }
    // What is long has no reason behind it.
    let second = rows.iter().filter(|r| !r.2.is_empty()).map(|r| r.1.chars().count()).max().unwrap_or(0);
    let first = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    for (what, value, why) in &rows {
        ui.note(format!("{what:first$}  {value:second$}  {why}").trim_end());
    }
    found.remarks.iter().for_each(|remark| ui.warn(remark));
    if ui.is_interactive() && !rows.is_empty() {
        ui.note("");
    }
}

/// A command as it would be typed; what a shell is given is that.
fn words(argv: Option<&Vec<String>>) -> Option<String> {
    Some(match argv?.as_slice() {
        [shell, flag, line] if shell == "sh" && flag == "-c" => line.clone(),
        words => words.join(" "),
    })
}

/// What the command line says, checked before anything else is done.
struct Wanted {
    name: Option<AppName>,
    preset: Option<PresetRef>,
    main: Option<String>,
    route: Option<Route>,
    servers: Vec<ServerName>,
}

impl Wanted {
    fn of(args: &Args, dir: &Path) -> Result<Wanted> {
        let usage = |e: Error| e.with_kind(Kind::Usage);
        let route = args.value("route").map(Route::parse).transpose().map_err(usage)?;
        let servers = args.values("server").map(ServerName::parse).collect::<Result<Vec<_>>>().map_err(usage)?;
        if !servers.is_empty() {
            let inventory = Inventory::load()?;
            servers.iter().try_for_each(|name| inventory.find(name).map(drop))?;
        }
        let name = args.value("name").map(AppName::parse).transpose().map_err(usage)?;
        let found = dir.file_name().and_then(|n| AppName::from_dir(&n.to_string_lossy()));
        let brief = args.flag("yes") || route.is_some();
        Ok(Wanted {
            // Who says the route or `--yes` wants no more questions than needed.
            name: name.or(found.filter(|_| brief)),
            preset: args.value("preset").map(PresetRef::parse).transpose().map_err(usage)?,
            main: args.value("main").map(main_of).transpose()?,
            route,
            servers,
        })
    }

    fn answered(self, ui: &Ui, dir: &Path, found: Found) -> Result<Start> {
        let mut runtime = found.runtime.as_ref().map(|seen| seen.value);
        let from_dir = dir.file_name().and_then(|n| AppName::from_dir(&n.to_string_lossy()));
        if !ui.is_interactive() {
            self.complete_without_questions(runtime, &found, from_dir.as_ref())?;
        }
        let name = match (self.name, &from_dir) {
            (Some(name), _) => name,
            (None, Some(found)) if !ui.is_interactive() => found.clone(),
            (None, found) => {
                let found = found.as_ref().map(AppName::as_str);
                again(ui, || AppName::parse(&ui.ask("Name of the app", found, "`--name NAME`")?))?
            }
        };
        if runtime.is_none() {
            runtime = Some(again(ui, || {
                runtime_of(&ui.ask("Runtime: bun, node, deno or binary", None, "`--runtime RUNTIME`")?)
            })?);
        }
        let runtime = runtime.ok_or_else(|| Error::new(Kind::Bug, "no runtime was chosen"))?;
        if let Some(PresetRef { name, pin: None }) = &self.preset
            && built_in::family(runtime, name).is_none()
        {
            return Err(built_in::unknown(runtime, name).with_kind(Kind::Usage));
        }
        // Who names a file to run has a server of their own.
        let seen = found.preset.filter(|_| self.main.is_none()).map(|seen| seen.value);
        let preset = self.preset.map(|preset| preset.to_string()).or(seen);
        // With another runtime, other files are looked for.
        let habit = detect::main(dir, runtime).filter(|_| self.main.is_none() && preset.is_none());
        let main = match (self.main, found.main, &habit) {
            (Some(main), ..) => Some(main),
            (None, ..) if preset.is_some() => None,
            (None, _, Some(_)) => None,
            (None, Some(seen), None) => Some(seen.value),
            (None, None, None) => {
                let question = "File to run, also when the build makes it";
                Some(again(ui, || main_of(&ui.ask(question, None, "`--main FILE`")?))?)
            }
        };
        let route = match self.route {
            Some(route) => route,
            None => {
                let question = format!("Host name for production, such as {name}.example.com");
                again(ui, || Route::parse(&ui.ask(&question, None, "`--route ROUTE`")?))?
            }
        };
        Ok(Start {
            name,
            runtime,
            preset,
            main,
            habit,
            start: found.start,
            install: found.install,
            health: found.health.map(|seen| seen.value),
            build: found.build.map(|seen| seen.value),
            route,
            servers: self.servers,
        })
    }

    /// Where nobody can answer, all that is missing is told at once.
    fn complete_without_questions(
        &self,
        runtime: Option<Runtime>,
        found: &Found,
        from_dir: Option<&AppName>,
    ) -> Result<()> {
        let mut missing = Vec::new();
        if self.name.is_none() && from_dir.is_none() {
            missing.push(("the name of the app", "--name NAME"));
        }
        if runtime.is_none() {
            missing.push(("the runtime", "--runtime RUNTIME"));
        }
        let preset = self.preset.is_some() || found.preset.is_some();
        if self.main.is_none() && !preset && found.main.is_none() && found.habit.is_none() {
            missing.push(("the file to run", "--main FILE"));
        }
        if self.route.is_none() {
            missing.push(("the host name of production", "--route ROUTE"));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let (what, flags): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
        Err(Error::new(Kind::NeedsInput, format!("nobody is there to answer: {}", what.join(", ")))
            .hint(format!("give `{}`, or run this on a terminal", flags.join(" "))))
    }
}

/// Asks until the answer can be.
fn again<T>(ui: &Ui, ask: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match ask() {
            Err(e) if matches!(e.kind(), Kind::Usage | Kind::Config) => ui.warn(&match e.next_step() {
                Some(hint) => format!("{e}: {hint}"),
                None => e.to_string(),
            }),
            answer => return answer,
        }
    }
    ask().map_err(|e| match e.kind() {
        Kind::Config => e.with_kind(Kind::Usage),
        _ => e,
    })
}

fn runtime_of(name: &str) -> Result<Runtime> {
    Runtime::parse(name).ok_or_else(|| {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        let hint = did_you_mean(name, RUNTIMES).unwrap_or_else(|| "use bun, node, deno or binary".into());
        Error::new(Kind::Usage, format!("`{shown}` is not a runtime")).hint(hint)
    })
}

/// The rule of `tako.toml`, told before the file is written.
fn main_of(main: &str) -> Result<String> {
    let inside = !main.trim().is_empty()
        && !main.starts_with('/')
        && !main.split('/').any(|part| part == "..")
        && !main.contains(char::is_control);
    match inside {
        true => Ok(main.into()),
        false => {
            let shown: String = main.chars().take(80).flat_map(char::escape_debug).collect();
            Err(Error::new(Kind::Usage, format!("`{shown}` is not a file of this project"))
                .hint("give a path inside the app's directory, such as server.js"))
        }
    }
}

fn write(ui: &Ui, args: &Args, dir: &Path, start: &Start) -> Result<Exit> {
    let (path, text) = (dir.join(FILE), text::text(start));
    if path.symlink_metadata().is_ok() && !args.flag("force") {
        let there = read_if_there(&path, MAX_FILE).ok().flatten();
        if there.as_deref() == Some(text.as_bytes()) {
            ui.note(&format!("{FILE} says this already; nothing was changed"));
            return Ok(Exit::Done);
        }
        if !replace(ui, args, &text)? {
            ui.note("nothing was changed");
            return Ok(Exit::Done);
        }
    }
    // Through a link, not over it.
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    write_atomic(&real, text.as_bytes(), project::mode_of(&real))?;
    ui.success(&format!("wrote {FILE}: {} ({}) at {}", start.name, start.runtime.as_str(), start.route));
    match ignore::ignore(dir) {
        Ignored::Added => ui.note("added .tako/ to .gitignore, but for the files in it that belong in git"),
        Ignored::Nothing => {}
        Ignored::AllOfIt(rule) => ui.warn(&format!(
            "git leaves out all of .tako/{}; .tako/secrets is encrypted and belongs in git: ignore `.tako/*` and `!.tako/secrets` instead",
            rule.map_or_else(String::new, |rule| format!(" ({rule})"))
        )),
        Ignored::Failed(why) => ui.warn(&format!("add these lines to .gitignore: `.tako/*`, `!.tako/secrets`, `!.tako/build.lock.json` ({why})")),
    }
    ui.note("next: `tako rehearse` tries it on this machine; `tako servers add HOST` and `tako deploy` ship it");
    ui.event(
        "result",
        json!({
            "file": path.display().to_string(),
            "name": start.name,
            "runtime": start.runtime,
            "preset": start.preset,
            "main": start.main.as_ref().or(start.habit.as_ref()),
            "route": start.route,
            "servers": start.servers,
        }),
    );
    Ok(Exit::Done)
}

/// Whether a file that is there may go; what would take its place is shown first.
fn replace(ui: &Ui, args: &Args, text: &str) -> Result<bool> {
    let message = format!("there is a {FILE} here already");
    // `--yes` is for what can be undone.
    if !ui.is_interactive() || args.flag("yes") {
        let lines = ["it would become:", ""].into_iter().chain(text.lines()).map(str::to_string).collect();
        return Err(Error::new(Kind::NeedsInput, message)
            .with_detail(lines)
            .hint("give `--force` to replace it; `tako config` shows what it means as it is"));
    }
    ui.note(&format!("{message}; it would become:\n"));
    text.lines().for_each(|line| ui.note(&format!("  {line}")));
    ui.note("");
    ui.confirm(&format!("Replace {FILE}?"), "`--force`")
}
