//! The part of [`super::meaning`] about `[vars]` and `[envs.…]`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::meaning::{Reader, Text, Texts, shown};
use super::{Env, is_reserved};
use crate::cli::config::section::Spanned;
use crate::cli::config::tako_toml::{self as written, Var};
use crate::cli::nearest::did_you_mean;
use crate::proto::manifest::Limits;
use crate::proto::name::{AppName, DEVELOPMENT, EnvName, ServerName};
use crate::proto::route::Route;

/// All variables of an environment together, in bytes: they travel with the secrets in one message of bounded size.
const MAX_VARS: usize = 128 << 10;
/// An app answers to a handful of hosts; a list beyond this comes from a program gone wrong.
const MAX_ROUTES: usize = 256;

impl Reader<'_> {
    pub(super) fn vars(&self, vars: Vec<Var>, warn: &mut dyn FnMut(String)) -> BTreeMap<String, String> {
        let mut read = BTreeMap::new();
        for Var { name, value } in vars {
            let good = name.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !good {
                let message = format!("`{}` is not a name for an environment variable", shown(&name.value));
                self.problem(&name.at, message, "use letters, digits and `_`, not starting with a digit");
            } else if value.contains('\0') {
                self.problem(&name.at, format!("the value of `{}` holds a zero byte", name.value), "remove it");
            } else if is_reserved(&name.value) {
                warn(format!("the variable {} has no effect: Tako sets it itself", name.value));
            } else {
                read.insert(name.value, value);
            }
        }
        read
    }

    pub(super) fn env(
        &self,
        name: Spanned<String>,
        env: written::Env,
        vars: BTreeMap<String, String>,
        app: Option<&AppName>,
        limits: &Limits,
    ) -> Option<(EnvName, Env)> {
        let parsed = self.parsed(&name.at, EnvName::parse(&name.value));
        let development = name.value == DEVELOPMENT;
        if vars.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>() > MAX_VARS {
            let fix = format!("keep them below {} KiB together; large data belongs into a file", MAX_VARS >> 10);
            self.problem(&name.at, format!("the variables of {} are too large", shown(&name.value)), fix);
        }
        let routes = self.routes(&name, env.route, env.routes, env.routes_key, development);
        if let Some(app) = app.filter(|_| development) {
            self.check_development(app, &routes);
        }
        let servers = self.servers(env.servers, development);
        let (instances, limits) = run(&env.run, 1, limits);
        let mut per_server = BTreeMap::new();
        for (server, own) in env.per_server {
            let known: Vec<&str> = servers.iter().map(ServerName::as_str).collect();
            let Some(server_name) = self.parsed(&server.at, ServerName::parse(&server.value)) else { continue };
            if !known.is_empty() && !known.contains(&server.value.as_str()) {
                let fix =
                    did_you_mean(&server.value, known).unwrap_or("add it to `servers` of this environment".into());
                self.problem(
                    &server.at,
                    format!("`{}` is not among the servers of {}", server.value, shown(&name.value)),
                    fix,
                );
            }
            per_server.insert(server_name, run(&own, instances, &limits));
        }
        let routes = routes.into_iter().map(|r| r.value).collect();
        Some((parsed?, Env { routes, servers, instances, limits, vars, per_server }))
    }

    fn routes(
        &self,
        env: &Spanned<String>,
        route: Text,
        routes: Texts,
        routes_key: Option<Range<usize>>,
        development: bool,
    ) -> Vec<Spanned<Route>> {
        if let (Some(_), Some(key)) = (&route, &routes_key) {
            self.problem(key, "there are both `route` and `routes`", "put all of them into `routes`");
        }
        let absent = route.is_none() && routes_key.is_none();
        let empty = routes.as_ref().filter(|r| r.value.is_empty()).map(|r| r.at.clone());
        let at = if absent { Some(env.at.clone()) } else { empty };
        if let Some(at) = at.filter(|_| !development) {
            let message = format!("[envs.{}] has no route", shown(&env.value));
            self.problem(&at, message, "add a line such as: route = \"app.example.com\"");
        }
        let mut seen = BTreeSet::new();
        let mut parsed = Vec::new();
        for route in route.into_iter().chain(routes.map(|r| r.value).unwrap_or_default()) {
            let Some(value) = self.parsed(&route.at, Route::parse(&route.value)) else { continue };
            match seen.insert(value.clone()) {
                true => parsed.push(Spanned { value, at: route.at }),
                false => self.problem(&route.at, format!("the route `{value}` is there twice"), "remove one of them"),
            }
        }
        if let Some(extra) = parsed.get(MAX_ROUTES) {
            self.problem(
                &extra.at,
                format!("there are more than {MAX_ROUTES} routes"),
                "use wildcards such as *.example.com",
            );
        }
        parsed
    }

    fn check_development(&self, app: &AppName, routes: &[Spanned<Route>]) {
        for route in routes {
            let inside = [format!("{app}.tako.local"), format!("{app}.tako.localhost")].iter().any(|own| {
                let host = route.value.host();
                host == own || host.strip_suffix(own.as_str()).is_some_and(|rest| rest.ends_with('.'))
            });
            if !inside {
                let fix = format!("use {app}.tako.local or {app}.tako.localhost, or a name below one of them");
                self.problem(&route.at, format!("`{}` is no route for development", route.value), fix);
            }
        }
    }

    fn servers(&self, servers: Texts, development: bool) -> Vec<ServerName> {
        let Some(servers) = servers else { return Vec::new() };
        if development {
            self.problem(&servers.at, "`development` runs on your own machine, not on servers", "remove this line");
        }
        let mut names = Vec::new();
        for server in servers.value {
            match self.parsed(&server.at, ServerName::parse(&server.value)) {
                Some(name) if names.contains(&name) => {
                    self.problem(&server.at, format!("the server `{name}` is there twice"), "remove one of them");
                }
                Some(name) => names.push(name),
                None => {}
            }
        }
        names
    }
}

fn run(own: &written::Run, instances: u32, limits: &Limits) -> (u32, Limits) {
    let or = |own: &Option<Spanned<u64>>, default| own.as_ref().map_or(default, |s| s.value);
    let instances = own.instances.as_ref().map_or(instances, |s| u32::try_from(s.value).unwrap_or(instances));
    let limits = Limits {
        idle_timeout_s: or(&own.idle_timeout, limits.idle_timeout_s),
        startup_timeout_s: or(&own.startup_timeout, limits.startup_timeout_s),
        drain_timeout_s: or(&own.drain_timeout, limits.drain_timeout_s),
        ..limits.clone()
    };
    (instances, limits)
}
