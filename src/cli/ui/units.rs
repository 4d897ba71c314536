//! Sizes, durations and ages as people read them. Sizes are decimal; exact values go to `--json` alone.

use std::time::Duration;

/// `512 B`, `19 kB`, `2.4 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    match tenths < 100 {
        true => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        false => format!("{} {}", tenths / 10, UNITS[unit]),
    }
}

/// `0.4s`, `34.2s`, `2m 05s`, `1h 04m`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..60 => format!("{}.{}s", seconds, d.subsec_millis() / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `0.4 ms`, `12 ms`, `1.2s`: what a swap took.
pub(crate) fn swap(d: Duration) -> String {
    match d.as_micros() {
        us @ 0..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        us @ 10_000..1_000_000 => format!("{} ms", us / 1000),
        _ => duration(d),
    }
}

/// `0%`, `3.2%`, `142%`: thousandths of one core.
pub(crate) fn percent(permille: u32) -> String {
    match permille {
        0 => "0%".into(),
        1..100 => format!("{}.{}%", permille / 10, permille % 10),
        _ => format!("{}%", permille / 10),
    }
}

/// `1 route`, `2 routes`.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// How long something has been so, for a table: `4s`, `12m`, `2h`, `6d`.
pub(crate) fn age(d: Duration) -> String {
    let (n, unit) = largest(d);
    format!("{n}{}", &unit[..1])
}

/// When something was, for a table: `just now`, `2 hours ago`, `yesterday`, `3 days ago`.
pub(crate) fn ago(d: Duration) -> String {
    match largest(d) {
        (_, "second") => "just now".into(),
        (1, "day") => "yesterday".into(),
        (1, unit) => format!("1 {unit} ago"),
        (n, unit) => format!("{n} {unit}s ago"),
    }
}

fn largest(d: Duration) -> (u64, &'static str) {
    match d.as_secs() {
        s @ 0..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..86_400 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_with_two_digits_that_matter() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(19_400, "19 kB");
        check(999_999, "999 kB");
        check(2_440_000, "2.4 MB");
        check(118_000_000, "118 MB");
        check(u64::MAX, "18446 PB");
    }

    #[test]
    fn durations_and_ages() {
        let check = |ms, long: &str, short: &str, past: &str| {
            let d = Duration::from_millis(ms);
            assert_eq!((duration(d).as_str(), age(d).as_str(), ago(d).as_str()), (long, short, past));
        };
        check(0, "0.0s", "0s", "just now");
        check(440, "0.4s", "0s", "just now");
        check(34_250, "34.2s", "34s", "just now");
        check(125_000, "2m 05s", "2m", "2 minutes ago");
        check(3_840_000, "1h 04m", "1h", "1 hour ago");
        check(86_400_000, "24h 00m", "1d", "yesterday");
        check(6 * 86_400_000, "144h 00m", "6d", "6 days ago");
        let ms = Duration::from_millis;
        assert_eq!([0, 3, 99, 100, 1429].map(percent), ["0%", "0.3%", "9.9%", "10%", "142%"]);
        assert_eq!([0, 3, 12, 1200].map(ms).map(swap), ["0.0 ms", "3.0 ms", "12 ms", "1.2s"]);
    }
}
