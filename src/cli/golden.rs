//! Golden files of the tests: compared, or renewed with `BLESS=1`.

use std::fs;
use std::path::Path;

/// Compares `actual` with the file at `path`, relative to the crate.
pub(crate) fn check(path: &Path, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; renew it with BLESS=1 and review the change", path.display());
}
