//! Sizes, durations and ages as people read them.

use std::time::Duration;

/// `512 B`, `19 kB`, `2.4 MB`: decimal, as disks and networks are sold.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        None => format!("{bytes} B"),
        Some((unit, name)) if bytes / unit >= 10 => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10)),
    }
}

/// `1 route`, `2 routes`.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `0.4s`, `34.2s`, `2m 05s`.
pub(crate) fn duration(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s}.{}s", d.subsec_millis() / 100),
        s @ 60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        s => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
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

/// How long something has been so: `4s`, `12m`, `2h`, `6d`.
pub(crate) fn age(d: Duration) -> String {
    let (n, unit) = largest(d);
    format!("{n}{}", &unit[..1])
}

/// When something was: `just now`, `1 hour ago`, `yesterday`, `3 days ago`.
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
    fn sizes_and_times_have_the_digits_that_matter() {
        let sizes = [0, 999, 1000, 19_400, 2_449_000, 118_000_000, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "19 kB", "2.4 MB", "118 MB", "18446744 TB"]);
        let ms = Duration::from_millis;
        assert_eq!([420, 34_250, 125_000, 3_840_000].map(ms).map(duration), ["0.4s", "34.2s", "2m 05s", "1h 04m"]);
        assert_eq!([0, 3, 12, 1200].map(ms).map(swap), ["0.0 ms", "3.0 ms", "12 ms", "1.2s"]);
        let s = Duration::from_secs;
        assert_eq!([4, 720, 7200, 600_000].map(s).map(age), ["4s", "12m", "2h", "6d"]);
        assert_eq!(
            [4, 60, 7200, 100_000, 300_000].map(s).map(ago),
            ["just now", "1 minute ago", "2 hours ago", "yesterday", "3 days ago"]
        );
    }
}
