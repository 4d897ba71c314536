//! The first `tako.toml` of a project: small, because what is not there has a default, with what is likely wanted next
//! as comments. Pure.

use std::fmt::Write;

use toml_edit::{Array, Value};

use crate::proto::manifest::Runtime;
use crate::proto::name::{AppName, ServerName};
use crate::proto::route::Route;

/// All that was answered; `None` leaves it to what is found each time.
#[derive(Debug)]
pub(super) struct Start {
    pub name: AppName,
    pub runtime: Runtime,
    pub preset: Option<String>,
    pub main: Option<String>,
    /// What is run when nobody says more, for a comment.
    pub habit: Option<String>,
    pub start: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub health: Option<String>,
    pub build: Option<String>,
    pub route: Route,
    pub servers: Vec<ServerName>,
}

pub(super) fn text(start: &Start) -> String {
    let mut text = String::from("# What Tako deploys, and where; `tako config` explains it.\n");
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    add(set("name", start.name.as_str()));
    add(set("runtime", start.runtime.as_str()));
    if let Some(preset) = &start.preset {
        add(format!("{}   # how it is built and started", set("preset", preset.as_str())));
    }
    match (&start.main, &start.habit) {
        (Some(main), _) => add(set("main", main.as_str())),
        (None, Some(habit)) => add(format!("# {}", set("main", habit.as_str()))),
        (None, None) => {}
    }
    if let Some(words) = &start.install {
        add(format!("{}   # on the server", set("install", words.iter().collect::<Array>())));
    }
    if let Some(words) = &start.start {
        add(set("start", words.iter().collect::<Array>()));
    }
    if let Some(path) = &start.health {
        add(format!("{}   # any 2xx or 3xx is healthy", set("health", path.as_str())));
    }
    add(String::new());
    match &start.build {
        Some(build) => add(format!("[build]\n{}", set("build", build.as_str()))),
        None => add(format!("# [build]\n# {}", set("build", example(start.runtime)))),
    }
    add("\n# [vars]\n# LOG_LEVEL = \"info\"   # secrets: tako secrets set NAME\n".into());
    add("[envs.production]".into());
    add(set("route", start.route.to_string()));
    match start.servers.as_slice() {
        [] => add("# servers = [\"fra1\"]   # needed once you have several".into()),
        servers => add(set("servers", servers.iter().map(ServerName::as_str).collect::<Array>())),
    }
    add("# instances = 2        # 0: started by its first request".into());
    text
}

/// What may be run to build it, where nothing is known of that.
fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Bun => "bun run build",
        Runtime::Node => "npm run build",
        Runtime::Deno => "deno task build",
        Runtime::Binary => "make",
    }
}

fn set(key: &str, value: impl Into<Value>) -> String {
    let mut line = String::new();
    let _ = write!(line, "{key} = {}", value.into());
    line
}
