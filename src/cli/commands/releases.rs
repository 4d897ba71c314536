//! `tako releases ls` and `tako releases rollback`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Exit, aim, change};
use crate::cli::args::Args;
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::Interrupt;
use crate::cli::nearest::did_you_mean;
use crate::cli::ship::tell;
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Reply, Request};
use crate::proto::name::{AppId, EnvName, ServerName};
use crate::proto::status::Release;
use crate::proto::version::Version;

/// A release as all servers together have it.
struct Row {
    release: Release,
    /// Where it is live.
    live_on: Vec<ServerName>,
}

pub(crate) fn ls(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let servers = aim::servers(&env_name, project.env(&env_name)?, &[])?;
    let app = aim::app(&project, &env_name);
    let found = read(ui, &servers, &app, &interrupt);
    interrupt.check()?;
    show(ui, &app, &found);
    aim::unanswered(ui, found.into_iter().map(|(server, found)| (server, found.map(drop))).collect())
}

fn show(ui: &Ui, app: &AppId, found: &[(ServerName, Result<Vec<Release>>)]) {
    let told = |(server, found): &(ServerName, Result<Vec<Release>>)| match found {
        Ok(releases) => json!({ "server": server, "ok": true, "releases": releases }),
        Err(e) => json!({ "server": server, "ok": false, "kind": e.kind(), "message": e.to_string() }),
    };
    ui.event("result", json!({ "app": app, "servers": found.iter().map(told).collect::<Vec<_>>() }));

    let there =
        |(server, found): &(ServerName, Result<Vec<Release>>)| Some((server.clone(), found.as_ref().ok()?.clone()));
    let rows = merge(found.iter().filter_map(there).collect());
    if rows.is_empty() {
        return;
    }
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    ui.table(&["", "RELEASE", "DEPLOYED", "BY", "MESSAGE", "SERVERS"], &cells);
    if rows.iter().any(|row| row.release.git_dirty) {
        ui.note("* built from a tree with uncommitted changes");
    }
    // Of the last one: what came of it is what people look for, also where it is live elsewhere.
    let version = &rows[0].release.version;
    let fails = |(server, found): &'_ (ServerName, Result<Vec<Release>>)| {
        let release = found.as_ref().ok()?.iter().find(|release| release.version == *version && !release.live)?;
        Some((server.clone(), release.failure.clone()?))
    };
    if let Some((server, why)) = found.iter().find_map(fails) {
        let on = if found.len() > 1 { format!(" on {server}") } else { String::new() };
        ui.note(&format!("! {version} did not come up{on}: {why}"));
    }
}

pub(crate) fn rollback(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let version = args.positional(0).map(Version::parse).transpose().map_err(|e| e.with_kind(Kind::Usage))?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let wanted = aim::wanted(args)?;
    let servers = aim::servers(&env_name, project.env(&env_name)?, &wanted)?;
    // Nothing is asked, in production neither: another rollback undoes it, and whoever goes back is in a hurry.
    let app = aim::app(&project, &env_name);
    // One server knows by itself which release was the last good one. Several may differ, and must end up alike.
    let (version, servers) = match (servers.len(), &version) {
        (1, None) => (version, servers),
        _ => {
            let found = read(ui, &servers, &app, &interrupt);
            interrupt.check()?;
            let lists = lists(found, &env_name, version.as_ref())?;
            if let Some(version) = &version {
                must_be_there(&lists, &app, version)?;
            }
            let version = match version.or_else(|| last_good(&lists)) {
                Some(version) => version,
                None => {
                    return Err(Error::new(Kind::NotFound, format!("{app} has no earlier release that was good"))
                        .hint("see `tako releases ls` and name one"));
                }
            };
            let there = |server: &ServerName| {
                let list = lists.iter().find(|(name, _)| name == server);
                list.is_some_and(|(_, releases)| releases.iter().any(|r| r.live && r.version == version))
            };
            let (done, left): (Vec<Server>, Vec<Server>) = servers.into_iter().partition(|s| there(&s.name));
            if left.is_empty() {
                return Err(Error::new(Kind::Refused, format!("{version} of {app} is live already"))
                    .hint("see `tako releases ls` and name another"));
            }
            must_be_on_each(&lists, &app, &env_name, &version)?;
            done.iter().for_each(|server| ui.note(&format!("{}: {version} is live already", server.name)));
            (Some(version), left)
        }
    };
    change::on_servers(ui, servers, &interrupt, || Request::Rollback { app: app.clone(), version: version.clone() })
}

type Lists = Vec<(ServerName, Vec<Release>)>;

fn read(ui: &Ui, servers: &[Server], app: &AppId, interrupt: &Interrupt) -> Vec<(ServerName, Result<Vec<Release>>)> {
    aim::ask_each(ui, servers, interrupt, |remote| {
        match remote.call(Request::Releases { app: app.clone() }, &mut |_| {})? {
            Reply::Releases(releases) => Ok(releases),
            other => Err(remote.misunderstood(&other)),
        }
    })
}

/// A release that no server has is a slip of the one who typed it.
fn must_be_there(lists: &Lists, app: &AppId, version: &Version) -> Result<()> {
    let known: BTreeSet<&str> = lists.iter().flat_map(|(_, list)| list).map(|r| r.version.as_str()).collect();
    if known.contains(version.as_str()) {
        return Ok(());
    }
    let guess = did_you_mean(version.as_str(), known);
    Err(Error::new(Kind::NotFound, format!("{app} has no release {version} to go back to"))
        .hint(guess.unwrap_or_else(|| "see `tako releases ls`".into())))
}

/// A release that only some servers still have would leave them with different ones, and that is known before.
fn must_be_on_each(lists: &Lists, app: &AppId, env: &EnvName, version: &Version) -> Result<()> {
    let has = |(_, list): &&(ServerName, Vec<Release>)| list.iter().any(|r| r.version == *version);
    let (there, absent): (Vec<_>, Vec<_>) = lists.iter().partition(has);
    if absent.is_empty() {
        return Ok(());
    }
    let names = absent.iter().map(|(server, _)| server.as_str()).collect::<Vec<_>>().join(", ");
    let alone = alone(env, Some(version), there.into_iter());
    Err(Error::new(Kind::Refused, format!("release {version} of {app} is not on {names}; nothing was changed"))
        .hint(format!("deploy its sources again, or put it live where it is: `{alone}`")))
}

/// The command for these servers and no others.
fn alone<'a>(
    env: &EnvName,
    version: Option<&Version>,
    servers: impl Iterator<Item = &'a (ServerName, Vec<Release>)>,
) -> String {
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    format!("tako releases rollback{version}{}", tell::alone(env, servers.map(|(server, _)| server.as_str())))
}

/// What every server said, or the error of those that did not.
fn lists(found: Vec<(ServerName, Result<Vec<Release>>)>, env: &EnvName, version: Option<&Version>) -> Result<Lists> {
    let count = found.len();
    let (mut lists, mut failed) = (Vec::new(), Vec::new());
    for (server, found) in found {
        match found {
            Ok(releases) => lists.push((server, releases)),
            Err(e) => failed.push((server, e)),
        }
    }
    match aim::failure(failed, count) {
        None => Ok(lists),
        // Whoever goes back is in a hurry, and a server that is down must not keep the others from it.
        Some(e) if !lists.is_empty() => {
            let alone = alone(env, version, lists.iter());
            Err(tell::or(e, &format!("`{alone}` goes back on the others alone")))
        }
        Some(e) => Err(e),
    }
}

/// Of all servers together, the newest good release before the newest that is live anywhere: after a deploy that only
/// some of them took, that is the one the others still serve. After a rollback that only some of them made, it is where
/// those went: whoever asks again wants the rest of it, not one more step.
fn last_good(lists: &Lists) -> Option<Version> {
    let rows = merge(lists.clone());
    let is_bad =
        |row: &&Row| lists.iter().flat_map(|(_, list)| list).any(|r| r.bad && r.version == row.release.version);
    let (bad, good): (Vec<&Row>, Vec<&Row>) = rows.iter().filter(|row| !row.live_on.is_empty()).partition(is_bad);
    if let (Some(_), Some(row)) = (bad.first(), good.first()) {
        return Some(row.release.version.clone());
    }
    let mut rows = rows.into_iter().skip_while(|row| row.live_on.is_empty());
    rows.next()?;
    rows.find(|row| !row.release.bad).map(|row| row.release.version)
}

/// One row per version, newest first; of what servers say differently the newest counts.
fn merge(lists: Lists) -> Vec<Row> {
    let mut rows: BTreeMap<Version, Row> = BTreeMap::new();
    for (server, releases) in lists {
        for release in releases {
            let live = release.live;
            let row = rows
                .entry(release.version.clone())
                .or_insert_with(|| Row { release: release.clone(), live_on: Vec::new() });
            if release.deployed_ms > row.release.deployed_ms {
                row.release = release;
            }
            if live {
                row.live_on.push(server.clone());
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.release.deployed_ms));
    rows
}

fn cells(row: &Row) -> Vec<String> {
    let Row { release, live_on } = row;
    let (mark, servers) = match live_on.as_slice() {
        [] if release.failure.is_some() => ("✗", "failed".into()),
        [] if release.bad => ("↩", "rolled back".into()),
        [] => ("", "–".into()),
        live => ("●", live.iter().map(ServerName::as_str).collect::<Vec<_>>().join(" ")),
    };
    vec![
        mark.into(),
        format!("{}{}", release.version, if release.git_dirty { "*" } else { "" }),
        units::ago(aim::since(release.deployed_ms)),
        // The machine's name is for locks and logs.
        release.by.split('@').next().unwrap_or_default().into(),
        release.commit_message.clone().unwrap_or_default().chars().take(40).collect(),
        servers,
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::golden;
    use crate::cli::ui::Settings;

    fn release(version: &str, deployed_ms: u64, live: bool, bad: bool) -> Release {
        Release {
            version: Version::parse(version).unwrap(),
            live,
            deployed_ms,
            by: "ana@laptop".into(),
            commit_message: Some("Fix cart rounding".into()),
            git_dirty: version == "b81e07c",
            bad,
            failure: None,
        }
    }

    fn failed(version: &str, deployed_ms: u64) -> Release {
        let failure = Some("instance 1 of 2 exited with code 3 before it was ready".into());
        Release { failure, ..release(version, deployed_ms, false, true) }
    }

    #[test]
    fn screens_are_as_reviewed() {
        let name = |s| ServerName::parse(s).unwrap();
        let list = |live: &str| {
            // So long ago that all of them are the same days ago.
            vec![
                failed("99aabb0", 10),
                release("4f2c9ab", 9, live == "4f2c9ab", false),
                release("77d0e1c", 8, false, true),
                release("b81e07c", 7, live == "b81e07c", false),
                release("5c3a9d2", 1, false, false),
            ]
        };
        let found = [
            (name("fra1"), Ok(list("4f2c9ab"))),
            (name("nyc1"), Ok(list("b81e07c"))),
            (name("lab"), Err(Error::new(Kind::Unreachable, "lab: refused"))),
        ];
        let app = AppId::parse("my-app").unwrap();
        let mut screens = String::new();
        for (name, (ui, out, err)) in [
            ("without a terminal", Ui::captured(Settings::default())),
            ("60 columns", Ui::captured_narrow(true)),
            ("60 columns of ASCII", Ui::captured_narrow(false)),
            ("for a program", Ui::captured(Settings { json: true, ..Settings::default() })),
        ] {
            show(&ui, &app, &found);
            screens += &format!("# {name}\n{}# and on standard error\n{}", out.text(), err.text());
        }
        let days = units::ago(aim::since(0));
        let screens = screens.replace(&days, &format!("{:len$}", "long ago", len = days.len()));
        golden::check(Path::new("tests/data/screens/releases-ls.txt"), &screens);
    }

    #[test]
    fn servers_share_a_row_per_release() {
        let name = |s| ServerName::parse(s).unwrap();
        let rows = merge(vec![
            (name("fra1"), vec![release("4f2c9ab", 9, true, false), release("77d0e1c", 8, false, true)]),
            (name("nyc1"), vec![release("b81e07c", 7, true, false), release("5c3a9d2", 1, false, false)]),
            (name("sin1"), vec![release("4f2c9ab", 10, true, false)]),
        ]);
        let shown: Vec<String> =
            rows.iter().map(cells).map(|c| format!("{} {} {} {}", c[0], c[1], c[3], c[5])).collect();
        assert_eq!(
            shown,
            ["● 4f2c9ab ana fra1 sin1", "↩ 77d0e1c ana rolled back", "● b81e07c* ana nyc1", " 5c3a9d2 ana –"]
        );
    }

    #[test]
    fn a_release_that_is_nowhere_is_an_error_with_a_suggestion() {
        let list = vec![(ServerName::parse("fra1").unwrap(), vec![release("4f2c9ab", 9, true, false)])];
        let app = AppId::parse("my-app").unwrap();
        let ask = |version: &str| must_be_there(&list, &app, &Version::parse(version).unwrap());
        assert!(ask("4f2c9ab").is_ok());
        let e = ask("4f2c9a").unwrap_err();
        assert_eq!((e.kind(), e.next_step()), (Kind::NotFound, Some("did you mean `4f2c9ab`?")));
        assert_eq!(ask("0000000").unwrap_err().next_step(), Some("see `tako releases ls`"));
    }

    #[test]
    fn a_release_that_some_servers_lack_goes_live_on_none() {
        let name = |s| ServerName::parse(s).unwrap();
        let lists = vec![
            (name("fra1"), vec![release("4f2c9ab", 9, true, false), release("b81e07c", 7, false, false)]),
            (name("nyc1"), vec![release("4f2c9ab", 9, true, false)]),
        ];
        let app = AppId::parse("my-app").unwrap();
        let ask = |version: &str| {
            must_be_on_each(&lists, &app, &EnvName::parse("staging").unwrap(), &Version::parse(version).unwrap())
        };
        assert!(ask("4f2c9ab").is_ok());
        let e = ask("b81e07c").unwrap_err();
        assert_eq!(e.to_string(), "release b81e07c of my-app is not on nyc1; nothing was changed");
        let hint = "deploy its sources again, or put it live where it is: \
                    `tako releases rollback b81e07c --env staging --server fra1`";
        assert_eq!((e.kind(), e.next_step()), (Kind::Refused, Some(hint)));
    }

    #[test]
    fn a_server_that_is_down_does_not_keep_the_others_from_going_back() {
        let name = |s| ServerName::parse(s).unwrap();
        let down = || Err(Error::new(Kind::Unreachable, "nyc1: no answer in time").hint("is a firewall in between?"));
        let told = |found| {
            let e = lists(found, &EnvName::production(), None).unwrap_err();
            (e.kind(), e.next_step().unwrap().to_string())
        };
        let others = "is a firewall in between? or: `tako releases rollback --server fra1 --server sin1` goes back on \
                      the others alone";
        assert_eq!(
            told(vec![(name("fra1"), Ok(vec![])), (name("nyc1"), down()), (name("sin1"), Ok(vec![]))]),
            (Kind::Unreachable, others.into())
        );
        assert_eq!(told(vec![(name("nyc1"), down())]).1, "is a firewall in between?");
    }

    #[test]
    fn a_rollback_of_several_servers_has_one_goal() {
        let name = |s| ServerName::parse(s).unwrap();
        let check = |lists: Lists, expected: Option<&str>| {
            assert_eq!(last_good(&lists).as_ref().map(Version::as_str), expected);
        };
        let older = || vec![release("77d0e1c", 3, false, true), release("5c3a9d2", 1, false, false)];
        // Both live on the new one: back to what was good before, past what was bad.
        let new = |live| vec![release("4f2c9ab", 9, live, false)];
        check(
            vec![(name("fra1"), [new(true), older()].concat()), (name("nyc1"), [new(true), older()].concat())],
            Some("5c3a9d2"),
        );
        // One that never went live is nowhere to go back to.
        check(vec![(name("fra1"), vec![release("4f2c9ab", 9, true, false), failed("99aabb0", 8)])], None);
        // Only one took the new one: the other stays where it is.
        let old = |live| vec![release("b81e07c", 7, live, false)];
        let half = vec![
            (name("fra1"), [new(true), old(false), older()].concat()),
            (name("nyc1"), [old(true), older()].concat()),
        ];
        check(half, Some("b81e07c"));
        // Only one went back, which is when that release was put live last: the other follows.
        let back = vec![
            (
                name("fra1"),
                vec![release("b81e07c", 10, true, false), release("4f2c9ab", 9, false, true), older().remove(1)],
            ),
            (name("nyc1"), [new(true), old(false), older()].concat()),
        ];
        check(back, Some("b81e07c"));
        check(vec![(name("fra1"), new(true)), (name("nyc1"), new(true))], None);
        check(vec![(name("fra1"), Vec::new()), (name("nyc1"), Vec::new())], None);
    }
}
