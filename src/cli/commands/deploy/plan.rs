//! `tako deploy --dry-run`: what a deploy would do, and the error that it would meet, with its exit code.
//!
//! **Invariant**: it asks, and changes nothing: no lock, no upload, no build, no file of the project or of its cache.

use serde_json::json;

use super::report::urls;
use crate::archive::Packed;
use crate::cli::build::{self, Planned, cache};
use crate::cli::commands::Exit;
use crate::cli::interrupt::Interrupt;
use crate::cli::ship::Shipment;
use crate::cli::ship::bind::{Bound, bind, check_room};
use crate::cli::ship::tell::rejected;
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::Result;
use crate::proto::version::Version;

/// What a server would get.
#[derive(Debug, PartialEq, Eq)]
enum Upload {
    /// It serves all of it.
    Nothing,
    AlreadyThere,
    Delta {
        from: Version,
    },
    /// The size is known when it was built before.
    Full {
        bytes: Option<u64>,
    },
}

pub(super) fn run(ui: &Ui, shipment: &Shipment<'_>, interrupt: &Interrupt) -> Result<Exit> {
    let bound = bind(ui, shipment, ui.task("Connect"), interrupt, &|_| {}).map_err(rejected)?;
    let planned = build::planned(shipment.project, shipment.order, shipment.build_anew)?;
    // The size of what is not built yet nobody knows.
    let packed: Vec<&Packed> = bound.iter().filter_map(|bound| artifact(&planned, bound)?.packed.as_ref()).collect();
    if packed.len() == bound.len() {
        check_room(&bound, &packed).map_err(rejected)?;
    }
    let uploads: Vec<Upload> = bound.iter().map(|bound| upload(shipment, &planned, bound)).collect();
    event(ui, shipment, &planned, &bound, &uploads);

    let env = shipment.env;
    let routes = env.routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    ui.out(&format!("version  {}", shipment.version));
    ui.out(&format!("routes   {routes}"));
    for Planned { target, packed, steps } in &planned {
        let how = match packed {
            Some(packed) => format!("nothing, it was built before ({})", units::size(packed.bytes)),
            None if steps.is_empty() => "pack the files".into(),
            None => steps.join(", "),
        };
        ui.out(&format!("build    {target}: {how}"));
    }
    // Only where it would run.
    let release = shipment.project.release.as_ref().filter(|_| uploads.iter().any(|upload| *upload != Upload::Nothing));
    if let Some(command) = release {
        ui.out(&format!("release  {command}"));
    }
    ui.out("");
    let rows: Vec<Vec<String>> =
        bound.iter().zip(&uploads).map(|(bound, upload)| row(shipment, bound, upload)).collect();
    ui.table(&["SERVER", "LIVE", "INST", "UPLOAD", "SECRETS"], &rows);
    ui.note("nothing was changed: this is what the deploy would do");
    Ok(Exit::Done)
}

fn upload(shipment: &Shipment<'_>, planned: &[Planned], bound: &Bound) -> Upload {
    if shipment.is_live(&bound.preflight) {
        return Upload::Nothing;
    }
    if bound.preflight.complete {
        return Upload::AlreadyThere;
    }
    let artifacts = shipment.project.dir.join(".tako/artifacts");
    let known = bound.preflight.bases.iter().find(|base| cache::holding(&artifacts, &base.sha256).is_some());
    match known {
        Some(base) => Upload::Delta { from: base.version.clone() },
        None => {
            Upload::Full { bytes: artifact(planned, bound).and_then(|planned| Some(planned.packed.as_ref()?.bytes)) }
        }
    }
}

/// That which the server would get.
fn artifact<'a>(planned: &'a [Planned], bound: &Bound) -> Option<&'a Planned> {
    let target = bound.remote.hello().target;
    planned.iter().find(|planned| planned.target == target).or(planned.first())
}

fn row(shipment: &Shipment<'_>, bound: &Bound, upload: &Upload) -> Vec<String> {
    let new = &shipment.version;
    let live = match &bound.preflight.live {
        _ if *upload == Upload::Nothing => format!("{new}, stays"),
        Some(live) => format!("{live} → {new}"),
        None => format!("nothing → {new}"),
    };
    let instances = match bound.wish.instances {
        0 => "on demand".into(),
        n => n.to_string(),
    };
    let upload = match upload {
        Upload::Nothing => "–".into(),
        Upload::AlreadyThere => "already there".into(),
        // What was brought there by a deploy that failed is kept for a while.
        Upload::Delta { from } if from == new => "kept there".into(),
        Upload::Delta { from } => format!("delta from {from}"),
        Upload::Full { bytes: Some(bytes) } => units::size(*bytes),
        Upload::Full { bytes: None } => "in full".into(),
    };
    let secrets = match shipment.secrets_for(&bound.preflight) {
        None => "unchanged".into(),
        Some(secrets) => format!("sends {}", secrets.values.len()),
    };
    vec![bound.place.name().into(), live, instances, upload, secrets]
}

fn event(ui: &Ui, shipment: &Shipment<'_>, planned: &[Planned], bound: &[Bound], uploads: &[Upload]) {
    let server = |(bound, upload): (&Bound, &Upload)| {
        let (kind, bytes, base) = match upload {
            Upload::Nothing => ("nothing", Some(0), None),
            Upload::AlreadyThere => ("already_there", Some(0), None),
            Upload::Delta { from } => ("delta", None, Some(from)),
            Upload::Full { bytes } => ("full", *bytes, None),
        };
        json!({
            "server": bound.place.name(),
            "target": bound.remote.hello().target,
            "live": bound.preflight.live,
            "unchanged": *upload == Upload::Nothing,
            "instances": bound.wish.instances,
            "upload": { "kind": kind, "bytes": bytes, "base": base },
            "secrets_change": shipment.secrets_for(&bound.preflight).is_some(),
            "overlaps": bound.preflight.overlaps,
            "free_bytes": bound.preflight.free_bytes,
        })
    };
    let build = |planned: &Planned| {
        json!({
            "target": planned.target,
            "cached": planned.packed.is_some(),
            "bytes": planned.packed.as_ref().map(|packed| packed.bytes),
            "steps": planned.steps,
        })
    };
    ui.event(
        "result",
        json!({
            "dry_run": true,
            "app": shipment.project.name,
            "env": shipment.env_name,
            "version": shipment.version,
            "routes": shipment.env.routes,
            "urls": urls(shipment.env),
            "release": shipment.project.release,
            "build": planned.iter().map(build).collect::<Vec<_>>(),
            "servers": bound.iter().zip(uploads).map(server).collect::<Vec<_>>(),
        }),
    );
}
