//! Real projects of the frameworks that people use, deployed as they would: `make test-apps`.
//!
//! Each is a folder here as its framework's starter leaves it: a page that the server renders, files beside it, a route
//! that depends on the request, an API that takes JSON. It is built and deployed by `tako` over a real `sshd` to a
//! `tako-server` of its own, which installs what the project needs to run; then it is asked for all of that through the
//! proxy, over HTTPS, changed, and deployed again while browsers read it. `project` is the developer's folder,
//! `traffic` the browsers. What a machine has not is skipped, and said.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../it/sandbox.rs"]
#[allow(dead_code)] // The other tests use the rest of these two.
mod sandbox;
#[path = "../it/http.rs"]
#[allow(dead_code)]
mod http;
mod project;
mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use http::{Client, WebSocket};
use project::{EDITIONS, Project};
use sandbox::{Ran, Server, Sshd, User, wait_for};
use traffic::Traffic;

/// What is asked of one project.
pub struct App {
    /// Of its folder, and in its `tako.toml`.
    name: &'static str,
    /// Instead of the one that its files tell.
    runtime: Option<&'static str>,
    /// Programs without which there is nothing to try.
    tools: &'static [&'static str],
    /// What its page says besides the edition: a variable of `[vars]`.
    page: &'static str,
    /// Where that page is.
    at: &'static [&'static str],
    /// A page that depends on what stands behind this.
    hello: Option<&'static str>,
    /// Takes JSON by POST.
    echo: Option<&'static str>,
    /// Where the files lie that a build made and the page names.
    built: Option<&'static str>,
    stream: Option<Stream>,
}

/// What stays open through a deploy.
enum Stream {
    Events(&'static str),
    Socket(&'static str),
}

const PLAIN: App = App {
    name: "",
    runtime: None,
    tools: &[],
    page: "hello from vars",
    at: &["/"],
    hello: Some("/hello/"),
    echo: Some("/api/echo"),
    built: None,
    stream: None,
};

const NPM: &[&str] = &["node", "npm"];

macro_rules! apps {
    ($($test:ident: $app:expr;)*) => {
        $(#[test]
        fn $test() {
            static APP: App = $app;
            APP.works();
        })*
    };
}

apps! {
    node_http: App { name: "node-http", tools: &["node"], stream: Some(Stream::Events("/events")), ..PLAIN };
    express: App { name: "express", tools: NPM, ..PLAIN };
    fastify: App { name: "fastify", tools: NPM, ..PLAIN };
    hono_on_bun: App { name: "hono-bun", tools: &["bun"], stream: Some(Stream::Socket("/ws")), ..PLAIN };
    elysia_on_bun: App { name: "elysia-bun", tools: &["bun"], stream: Some(Stream::Socket("/ws")), ..PLAIN };
    hono_on_deno: App { name: "hono-deno", tools: &["deno"], ..PLAIN };
    hono_on_node: App { name: "hono-node", tools: NPM, ..PLAIN };
    rust: App { name: "rust", tools: &["cargo"], ..PLAIN };
    python: App { name: "python", tools: &["python3"], ..PLAIN };
    uvicorn: App { name: "uvicorn", tools: &["python3"], ..PLAIN };
    vite_spa: App {
        name: "vite-spa",
        tools: NPM,
        at: &["/", "/a/route/of/the/client"],
        hello: None,
        echo: None,
        built: Some("/assets/"),
        ..PLAIN
    };
    vite_on_deno: App {
        name: "vite-deno",
        tools: &["deno"],
        at: &["/", "/a/route/of/the/client"],
        hello: None,
        echo: None,
        built: Some("/assets/"),
        ..PLAIN
    };
    vite_ssr: App { name: "vite-ssr", tools: NPM, built: Some("/assets/"), ..PLAIN };
    next: App { name: "next", tools: NPM, built: Some("/_next/static/"), ..PLAIN };
    react_router: App { name: "react-router", tools: NPM, built: Some("/assets/"), ..PLAIN };
    remix: App { name: "remix", tools: NPM, built: Some("/assets/"), ..PLAIN };
    tanstack_start: App { name: "tanstack-start", tools: NPM, built: Some("/assets/"), ..PLAIN };
    react_router_on_deno: App {
        name: "react-router",
        runtime: Some("deno"),
        tools: NPM,
        built: Some("/assets/"),
        ..PLAIN
    };
    sveltekit: App { name: "sveltekit", tools: NPM, built: Some("/_app/immutable/"), ..PLAIN };
    sveltekit_on_bun: App {
        name: "sveltekit",
        runtime: Some("bun"),
        tools: NPM,
        built: Some("/_app/immutable/"),
        ..PLAIN
    };
    astro: App { name: "astro", tools: NPM, built: Some("/_astro/"), ..PLAIN };
    nuxt: App { name: "nuxt", tools: NPM, built: Some("/_nuxt/"), ..PLAIN };
}

impl App {
    fn host(&self) -> String {
        format!("{}.localhost", self.name)
    }

    /// Whoever runs the tests may want another one for all that Node would run.
    fn runtime(&self) -> Option<&'static str> {
        let wanted = || std::env::var("TAKO_APPS_RUNTIME").ok().filter(|_| self.tools == NPM);
        let wanted = || ["bun", "deno"].into_iter().find(|known| wanted().is_some_and(|w| w == *known));
        self.runtime.or_else(wanted)
    }

    fn works(&'static self) {
        let runtime = self.runtime();
        if let Some(missing) = self.tools.iter().copied().chain(runtime).find(|tool| !is_here(tool)) {
            println!("skipped: {}: there is no {missing} on this machine", self.name);
            return;
        }
        let began = Instant::now();
        let project = Project::new(self.name, runtime);
        let installed = began.elapsed();
        let server = Server::start();
        let sshd = Sshd::start(&server);
        let world = World { app: self, user: User::new(&sshd), project, server };
        world.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);

        let first = world.deploy();
        world.check(EDITIONS[0]);
        let mut stream = self.stream.as_ref().map(|stream| Open::to(&world, stream));
        let traffic = Traffic::start(self, world.server.https);
        wait_for("pages of the first edition", || (traffic.pages()[0] > 2).then_some(()));
        world.project.change();
        let second = world.deploy();
        wait_for("pages of the second edition", || (traffic.pages()[1] > 2).then_some(()));
        stream.iter_mut().for_each(Open::goes_on);
        let pages = traffic.pages();
        let failures = traffic.stop();
        assert!(
            failures.is_empty(),
            "{} failed beside {pages:?} pages, such as {:?}\n{}",
            failures.len(),
            &failures[..failures.len().min(5)],
            world.server.log()
        );
        world.check(EDITIONS[1]);
        let label = runtime.map_or(self.name.into(), |runtime| format!("{} on {runtime}", self.name));
        println!("{}", line(&label, installed.as_millis(), &first, &second, pages));
    }
}

/// A project, its developer, and the server that it is deployed to.
struct World {
    app: &'static App,
    user: User,
    project: Project,
    server: Server,
}

impl World {
    fn must(&self, args: &[&str]) -> Ran {
        let mut command = self.user.command(args);
        command.current_dir(&self.project.dir);
        // Tools of a build keep what they need at home; what is Tako's there was moved already.
        command.env("HOME", std::env::var_os("HOME").unwrap());
        let ran = Ran::from(args, command.output().unwrap());
        assert_eq!(ran.code, 0, "{ran}--- server\n{}", self.server.log());
        ran
    }

    /// The `result` event.
    fn deploy(&self) -> Value {
        let ran = self.must(&["deploy", "--yes", "--json"]);
        serde_json::from_str(ran.out.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {ran}"))
    }

    /// All that the app has to answer.
    fn check(&self, edition: &str) {
        let App { page, at, hello, echo, built, .. } = self.app;
        let mut client = Client::tls(self.server.https, &self.app.host()).unwrap();
        let mut get = |path: &str| {
            let answer = client.get(path).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.server.log()));
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            answer
        };

        for path in *at {
            let answer = get(path);
            let (kind, text) = (answer.header("content-type").unwrap_or_default(), answer.text());
            assert!(kind.starts_with("text/html"), "{path}: {:?}", answer.headers);
            assert!(text.contains(edition) && text.contains(page), "no {edition:?} or {page:?} in {text}");
        }
        for name in ["ada", "grace"] {
            let Some(hello) = hello else { continue };
            let text = get(&format!("{hello}{name}")).text();
            assert!(text.contains(&format!("Hello, {name}")), "{text}");
        }

        let logo = get("/logo.svg");
        assert_eq!(logo.header("content-type"), Some("image/svg+xml"));
        assert_eq!(logo.body, self.project.logo());
        if let Some(built) = built {
            let text = get("/").text();
            let named: Vec<String> = assets_of(&text).into_iter().filter(|path| path.starts_with(built)).collect();
            assert!(!named.is_empty(), "nothing below {built} in {text}");
            for path in named {
                let asset = get(&path);
                let kind = if path.ends_with(".css") { "text/css" } else { "text/javascript" };
                assert!(
                    asset.header("content-type").unwrap_or_default().starts_with(kind),
                    "{path}: {:?}",
                    asset.headers
                );
                assert!(self.is_in_the_release(&path, &asset.body), "{path} is no file of the release");
            }
        }
        if let Some(echo) = echo {
            for text in ["one", "and two"] {
                let (body, expected) = echoes(text);
                let answer = client.post_json(echo, &body).unwrap();
                assert_eq!((answer.status, answer.json()), (200, expected));
            }
        }
    }

    /// Whether a file of the live release that is called so has these bytes.
    fn is_in_the_release(&self, path: &str, bytes: &[u8]) -> bool {
        fn find(dir: &Path, name: &str, bytes: &[u8]) -> bool {
            fs::read_dir(dir).unwrap().flatten().any(|entry| match entry.file_type().unwrap().is_dir() {
                true => find(&entry.path(), name, bytes),
                false => entry.file_name() == name && fs::read(entry.path()).is_ok_and(|there| there == bytes),
            })
        }
        let app = self.server.app(self.app.name);
        let release = app.join("releases").join(self.server.current(self.app.name).unwrap());
        find(&release, path.rsplit('/').next().unwrap(), bytes)
    }
}

/// A stream of the first release, which has to live through the deploy of the second.
enum Open {
    Events(Client),
    Socket(WebSocket),
}

impl Open {
    fn to(world: &World, stream: &Stream) -> Open {
        let mut client = Client::tls(world.server.https, &world.app.host()).unwrap();
        let mut open = match stream {
            Stream::Events(path) => {
                client.open_events(path).unwrap();
                Open::Events(client)
            }
            Stream::Socket(path) => Open::Socket(client.upgrade(path).unwrap()),
        };
        open.goes_on();
        open
    }

    fn goes_on(&mut self) {
        match self {
            Open::Events(client) => assert!(client.event().unwrap().is_some_and(|event| event.starts_with("data: "))),
            Open::Socket(socket) => assert!(socket.echoes("still here").unwrap()),
        }
    }
}

/// A message for the API, and the answer to it.
fn echoes(text: &str) -> (String, Value) {
    (json!({ "text": text }).to_string(), json!({ "said": text, "length": text.len() }))
}

/// Scripts, styles and pictures of this site that its first page names.
fn assets_of(page: &str) -> BTreeSet<String> {
    let quoted = page.split(['"', '\'']).map(|text| text.trim_end_matches('\\'));
    let asset = |path: &&str| [".js", ".css", ".svg"].iter().any(|ending| path.ends_with(ending));
    let paths = quoted.filter(asset).map(|path| path.strip_prefix('.').unwrap_or(path));
    paths.filter(|path| path.starts_with('/') && !path.starts_with("//")).map(str::to_owned).collect()
}

fn is_here(tool: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(tool).is_file())
}

/// What it took, for people.
fn line(name: &str, installed_ms: u128, first: &Value, second: &Value, pages: [usize; 2]) -> String {
    let ms = |result: &Value, what: &str| result["durations_ms"][what].as_u64().unwrap_or_default();
    let kib = |what: &str| first["artifacts"][0][what].as_u64().unwrap_or_default() >> 10;
    format!(
        "{name:<22} packages {installed_ms:>6} ms · build {:>6} ms · all {:>6} ms · artifact {:>6} KiB of {:>6} KiB · \
         again: build {:>6} ms, all {:>6} ms · pages {pages:?}, 0 failed",
        ms(first, "build"),
        ms(first, "total"),
        kib("bytes"),
        kib("unpacked"),
        ms(second, "build"),
        ms(second, "total"),
    )
}
