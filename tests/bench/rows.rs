//! Rows: what the benches print, milliseconds as min, median and max under one heading.

use std::time::Duration;

pub(crate) fn heading() {
    println!("{:<52} {:>8} {:>8} {:>8}", "", "min", "median", "max");
}

/// Prints a line; its median.
pub(crate) fn row(what: &str, mut times: Vec<Duration>) -> f64 {
    assert!(!times.is_empty(), "{what}: nothing was measured");
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let (min, median, max) = (ms(times[0]), ms(times[times.len() / 2]), ms(times[times.len() - 1]));
    println!("{what:<52} {min:>8.1} {median:>8.1} {max:>8.1}");
    median
}
