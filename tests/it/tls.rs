//! TLS as a scanner sees it: `sslyze` against a real server, by Mozilla's intermediate profile.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::sandbox::Server;

/// What only a public authority can give: a chain to a root that everybody knows, and its choice of a lifetime. Ours
/// here is self-signed, and lives as long as clients accept of one.
const EXCEPTED: &[&str] = &["certificate_path_validation", "maximum_certificate_lifespan"];

/// On the path, or where `tests/setup.sh` puts it.
fn sslyze() -> Option<Command> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/sslyze/bin/sslyze");
    ["sslyze".into(), ours].into_iter().find_map(|program| {
        let quiet = Command::new(&program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success()).then(|| Command::new(program))
    })
}

#[test]
fn sslyze_finds_the_intermediate_profile_of_mozilla() {
    let Some(mut sslyze) = sslyze() else {
        // Past the capture of the test's output, so that it is seen.
        let _ = writeln!(std::io::stderr(), "skipped: there is no sslyze on this machine");
        return;
    };
    let server = Server::start();
    let found = server.dir.path().join("sslyze.json");
    // Not --resum: it takes a resumption that renews the ticket for none. The proxy's own tests resume.
    let scan = ["--mozilla_config=intermediate", "--early_data"];
    sslyze.args(scan).arg("--json_out").arg(&found).arg(server.https.to_string());
    let output = sslyze.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);

    let verdict = said.split("COMPLIANCE AGAINST").nth(1).unwrap_or_else(|| panic!("no verdict: {said}"));
    let mut rows: Vec<&str> =
        verdict.lines().filter_map(|line| line.trim().strip_prefix("* ")?.split(':').next()).collect();
    rows.sort_unstable();
    assert_eq!(rows, EXCEPTED, "{verdict}");

    let found: Value = serde_json::from_slice(&fs::read(&found).unwrap()).unwrap();
    let scan = &found["server_scan_results"][0]["scan_result"];
    let unfinished =
        |(_, part): &(&String, &Value)| !["COMPLETED", "NOT_SCHEDULED"].map(Value::from).contains(&part["status"]);
    let unfinished: Vec<_> = scan.as_object().unwrap().iter().filter(unfinished).collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    for (part, what, expected) in [
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", Value::from(false)),
        ("heartbleed", "is_vulnerable_to_heartbleed", false.into()),
        ("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into()),
        ("tls_compression", "supports_compression", false.into()),
        ("tls_fallback_scsv", "supports_fallback_scsv", true.into()),
        ("tls_extended_master_secret", "supports_ems_extension", true.into()),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false.into()),
        ("tls_1_3_early_data", "supports_early_data", false.into()),
    ] {
        assert_eq!(scan[part]["result"][what], expected, "{part}: {}", scan[part]);
    }
}
