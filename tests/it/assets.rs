//! Files of a release: served by the server itself, with the release and for a drain period after it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;

use crate::deploy::world;
use crate::http::Client;
use crate::sandbox::{HOST, Server, User, wait_for};

const HASHED: &str = "app-3f2a1b9c.js";

fn config(routes: &str, drain: u32) -> String {
    format!(
        "name = \"shop\"\nruntime = \"node\"\nmain = \"index.mjs\"\n\n[build]\nassets = [\"dist\"]\n\n\
         [envs.production]\nroutes = [{routes}]\ndrain_timeout = {drain}\n"
    )
}

fn put(user: &User, name: &str, content: &str) {
    let path = user.project().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn deploy(user: &User) -> String {
    let event: Value = user.result(&["deploy", "--yes", "--json"]);
    event["version"].as_str().unwrap().to_string()
}

fn get(server: &Server, path: &str) -> (u16, String) {
    let answer = Client::plain(server.http, HOST).unwrap().get(path).unwrap();
    (answer.status, answer.text())
}

#[test]
fn files_go_live_with_a_release_and_stay_for_a_drain_period_after_it() {
    let (server, _sshd, user) = world();
    user.write("tako.toml", &config("\"shop.localhost\"", 4));
    put(&user, "dist/site.css", "one{}");
    put(&user, &format!("dist/{HASHED}"), "old()");
    put(&user, "public/robots.txt", "User-agent: *");
    deploy(&user);

    let mut client = Client::tls(server.https, HOST).unwrap();
    let css = client.get("/site.css").unwrap();
    assert_eq!((css.status, css.text().as_str()), (200, "one{}"));
    assert_eq!(css.header("content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(css.header("cache-control"), Some("no-cache"));
    assert_eq!(css.header("x-content-type-options"), Some("nosniff"));
    assert!(css.header("etag").is_some() && css.header("last-modified").is_some());
    let hashed = client.get(&format!("/{HASHED}")).unwrap();
    assert_eq!(hashed.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(client.get("/robots.txt").unwrap().text(), "User-agent: *", "what `public` had is merged with");

    put(&user, "dist/site.css", "two{}");
    fs::remove_file(user.project().join("dist").join(HASHED)).unwrap();
    deploy(&user);
    assert_eq!(get(&server, "/site.css").1, "two{}");
    assert_eq!(get(&server, &format!("/{HASHED}")), (200, "old()".into()), "pages of the old release are still open");
    wait_for("the old release's files to go", || (get(&server, &format!("/{HASHED}")).0 == 404).then_some(()));

    user.must(&["releases", "rollback"]);
    assert_eq!(get(&server, "/site.css").1, "one{}");
    assert_eq!(get(&server, &format!("/{HASHED}")).1, "old()");
}

#[test]
fn an_app_below_a_path_finds_its_files_with_and_without_it() {
    let (server, _sshd, user) = world();
    user.write("tako.toml", &config("\"shop.localhost/shop/*\"", 4));
    put(&user, "dist/bare.txt", "bare");
    put(&user, "dist/shop/full.txt", "full");
    deploy(&user);
    assert_eq!(get(&server, "/shop/bare.txt"), (200, "bare".into()));
    assert_eq!(get(&server, "/shop/full.txt"), (200, "full".into()));
    assert_eq!(get(&server, "/shop/none.txt").0, 404, "said by the app");
    assert_eq!(get(&server, "/bare.txt").0, 404, "no route leads here");
}

#[test]
fn a_hostile_release_serves_nothing_but_its_files() {
    let (server, _sshd, user) = world();
    user.write("tako.toml", &config("\"shop.localhost\"", 4));
    put(&user, "dist/good.txt", "good");
    put(&user, "dist/folder.css/inner.txt", "inner");
    let version = deploy(&user);
    // What no build lets pass, an app can make.
    let public = server.app("shop").join("releases").join(version).join("public");
    symlink("../tako.toml", public.join("config.txt")).unwrap();
    symlink("..", public.join("up")).unwrap();
    symlink("/etc/passwd", public.join("passwd.txt")).unwrap();
    fs::write(public.join(".env.txt"), "SECRET").unwrap();
    assert!(Command::new("mkfifo").arg(public.join("pipe.css")).status().unwrap().success());
    assert!(public.join("up").join("index.mjs").exists(), "the link is there, and leads out");

    let mut client = Client::plain(server.http, HOST).unwrap();
    let huge = format!("/{}.css", "a/".repeat(3500));
    for path in [
        "/config.txt",
        "/up/index.mjs",
        "/up/app.json",
        "/passwd.txt",
        "/.env.txt",
        "/%2eenv.txt",
        "/pipe.css",
        "/folder.css",
        "/good.txt/x.css",
        "/folder.css/..%2f..%2fapp.json",
        "/%5c..%5capp.json",
        &huge,
    ] {
        let answer = client.get(path).unwrap();
        assert!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.text());
        if client.closed {
            client = Client::plain(server.http, HOST).unwrap();
        }
    }
    assert_eq!(get(&server, "/good.txt").1, "good");
    assert_eq!(get(&server, "/folder.css/inner.txt").1, "inner");
}
