//! `tests/data/apps/small` as an app, deployed over the control protocol alone: what is measured around it is the
//! server's.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::sandbox::{Control, Server};

/// An archive with the program as its only file, `run`, in the server's folder for uploads.
pub struct Small {
    packed: Vec<u8>,
    sha256: String,
    unpacked: usize,
}

impl Small {
    /// Compiles it: without `rustc` there is no test at all.
    pub fn compile() -> Small {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("run");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/apps/small/main.rs");
        let flags = ["--edition", "2024", "-C", "opt-level=2", "-C", "strip=symbols", "-o"];
        assert!(Command::new("rustc").args(flags).arg(&program).arg(source).status().unwrap().success());
        let program = fs::read(program).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut head = tar::Header::new_gnu();
        head.set_size(program.len() as u64);
        head.set_mode(0o755);
        tar.append_data(&mut head, "run", program.as_slice()).unwrap();
        let tar = tar.into_inner().unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA256, &tar);
        let sha256 = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Small { packed: zstd::encode_all(&tar[..], 1).unwrap(), sha256, unpacked: tar.len() }
    }

    /// A whole deploy on a connection of its own, as `tako deploy` does it; the server's last word.
    pub fn deploy(&self, server: &Server, app: &str, version: &str, instances: u32) -> Value {
        let mut control = Control::open(server).expect("the server answers");
        let mut call = |request: Value| control.call(request).unwrap_or_else(|e| panic!("{app} {version}: {e}"));
        call(json!({"lock": {"app": app, "version": version}}));
        let file = format!("{app}-{version}.tar.zst");
        fs::write(server.data().join("incoming").join(&file), &self.packed).unwrap();
        let artifact =
            json!({"file": file, "sha256": self.sha256, "bytes": self.packed.len(), "unpacked": self.unpacked});
        call(json!({"unpack": {"app": app, "version": version, "artifact": artifact}}));
        let manifest = json!({"app": app, "version": version, "runtime": "binary", "main": "run", "health": "/"});
        call(json!({"prepare": {"manifest": manifest}}));
        let routes = [format!("{app}.localhost")];
        let deployed = call(json!({"deploy": {"manifest": manifest, "routes": routes, "instances": instances}}));
        call(json!({"unlock": {"app": app}}));
        deployed["deployed"].clone()
    }
}
