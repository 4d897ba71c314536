//! A test in namespaces of its own: this program started again for that one test. What it mounts, the networks it makes
//! and, with a process namespace, all that it starts are seen by nobody else and go with it, also when it is killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// How the one that was started again knows that it is.
const SIGN: &str = "TAKO_TEST_ALONE";

/// Whether this is the program that was started again.
pub fn is_alone() -> bool {
    std::env::var_os(SIGN).is_some()
}

/// Runs `test` (`module::name`) again, within new namespaces as the options of unshare(1) name them.
pub fn again(test: &str, namespaces: &[&str]) {
    let this = std::env::current_exe().unwrap();
    // What is mounted there cannot be removed from inside.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // It ends with us. The shell is there for orphans: in a process namespace it is their parent, and reaps them.
    let mut again = Command::new("setpriv");
    again.args(["--pdeathsig", "KILL", "unshare"]).args(namespaces);
    again.args(["sh", "-c", "\"$@\"; exit $?", "sh"]).arg(this).args(["--exact", test, "--nocapture"]);
    again.env(SIGN, "1").env("TMPDIR", dir.path());
    let ran = again.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}
