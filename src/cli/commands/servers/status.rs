//! `tako servers status`: how the servers themselves are: program, uptime, apps, room, certificates.

use std::time::Duration;

use serde_json::json;

use super::check::steps::info;
use super::server_name;
use crate::cli::args::Args;
use crate::cli::commands::{Exit, aim};
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::interrupt::Interrupt;
use crate::cli::ui::{Ui, units};
use crate::error::{Error, Result};
use crate::proto::control::{Info, Reply, Request};
use crate::proto::name::ServerName;
use crate::proto::status::AppState;

/// What a server said of itself.
struct About {
    info: Info,
    apps: usize,
    /// Apps with something wrong.
    ill: Vec<String>,
}

/// `tako servers status [NAME]`.
pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let inventory = Inventory::load()?;
    let interrupt = Interrupt::of_process()?;
    let servers: Vec<Server> = match args.positional(0) {
        Some(name) => vec![inventory.find(&server_name(name)?)?.clone()],
        None => inventory.servers().to_vec(),
    };
    if servers.is_empty() {
        ui.note("no servers yet: run `tako servers add HOST`");
    }
    let found = aim::ask_each(ui, &servers, &interrupt, |remote| {
        let info = info(remote)?;
        let apps = match remote.call(Request::Status { app: None }, &mut |_| {})? {
            Reply::Status(apps) => apps,
            other => return Err(remote.misunderstood(&other)),
        };
        let is_ill = |state| matches!(state, AppState::Degraded | AppState::CrashLooping | AppState::Failed);
        let ill = apps.iter().filter(|app| is_ill(app.state)).map(|app| app.app.to_string()).collect();
        Ok(About { info, apps: apps.len(), ill })
    });
    interrupt.check()?;
    tell(ui, &found);
    aim::unanswered(ui, found.into_iter().map(|(server, about)| (server, about.map(drop))).collect())
}

fn tell(ui: &Ui, found: &[(ServerName, Result<About>)]) {
    ui.event("result", json!({ "servers": found.iter().map(told).collect::<Vec<_>>() }));
    if !found.is_empty() {
        let rows: Vec<Vec<String>> = found.iter().map(row).collect();
        ui.table(&["SERVER", "STATE", "VERSION", "UP", "APPS", "FREE", "HTTP", "HTTPS"], &rows);
    }
    for (server, about) in found {
        let Ok(About { info, ill, .. }) = about else { continue };
        if !ill.is_empty() {
            ui.note(&format!("! {server}: not well: {} (`tako status --all --server {server}`)", ill.join(", ")));
        }
        info.cert_problems.iter().for_each(|problem| ui.note(&format!("! {server}: certificate of {problem}")));
    }
}

fn row((server, about): &(ServerName, Result<About>)) -> Vec<String> {
    let dash = || "–".to_string();
    let cells = match about {
        Ok(About { info, apps, ill }) => {
            let well = ill.is_empty() && info.cert_problems.is_empty();
            let list = |places: &[String]| if places.is_empty() { dash() } else { places.join(" ") };
            vec![
                if well { "● up".into() } else { "! up".into() },
                info.server.clone(),
                info.up_ms.map_or_else(dash, |ms| units::age(Duration::from_millis(ms))),
                apps.to_string(),
                units::size(info.free_bytes),
                list(&info.http),
                list(&info.https),
            ]
        }
        Err(e) => [aim::unanswered_word(e).to_string()].into_iter().chain((0..6).map(|_| dash())).collect(),
    };
    std::iter::once(server.to_string()).chain(cells).collect()
}

fn told((server, about): &(ServerName, Result<About>)) -> serde_json::Value {
    match about {
        Ok(About { info, apps, ill }) => {
            json!({ "server": server, "ok": true, "info": info, "apps": apps, "not_well": ill })
        }
        Err(e) => failed(server, e),
    }
}

fn failed(server: &ServerName, e: &Error) -> serde_json::Value {
    json!({ "server": server, "ok": false, "kind": e.kind(), "message": e.to_string(), "hint": e.next_step() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Settings;
    use crate::error::Kind;
    use crate::proto::target::Target;

    fn about(ill: &[&str], cert_problems: &[&str], up_ms: Option<u64>) -> About {
        let info = Info {
            server: "0.1.0".into(),
            target: Target::parse("linux-x86_64-glibc").unwrap(),
            pid: 1,
            http: vec!["0.0.0.0:80".into()],
            https: Vec::new(),
            data_dir: "/opt/tako".into(),
            free_bytes: 12_000_000_000,
            up_ms,
            cert_problems: cert_problems.iter().map(ToString::to_string).collect(),
        };
        About { info, apps: 3, ill: ill.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn every_server_has_a_row_and_every_trouble_a_line() {
        let name = |name| ServerName::parse(name).unwrap();
        let found = [
            (name("fra1"), Ok(about(&[], &[], Some(7_300_000)))),
            (name("nyc1"), Ok(about(&["shop"], &["a.example.com: key.pem is missing"], None))),
            (name("lab"), Err(Error::new(Kind::Unreachable, "lab: no answer in time"))),
        ];
        let (ui, out, err) = Ui::captured(Settings::default());
        tell(&ui, &found);
        let expected = "\
SERVER  STATE          VERSION  UP  APPS  FREE   HTTP        HTTPS
fra1    ● up           0.1.0    2h  3     12 GB  0.0.0.0:80  –
nyc1    ! up           0.1.0    –   3     12 GB  0.0.0.0:80  –
lab     ! unreachable  –        –   –     –      –           –
";
        assert_eq!(out.text(), expected);
        let expected = "\
! nyc1: not well: shop (`tako status --all --server nyc1`)
! nyc1: certificate of a.example.com: key.pem is missing
";
        assert_eq!(err.text(), expected);
    }
}
