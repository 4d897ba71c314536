//! Sieve: which entries a reader wants. Pure; the same for what is kept and for what is just being said.

use memchr::memmem::Finder;

use super::entry::Entry;
use crate::proto::control::{LogQuery, Stream};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Clocks that are wrong are mostly set by less than this. A file is skipped by its first and last time only when both
/// are further away.
const SLACK_MS: u64 = 3600 * 1000;

pub(super) struct Sieve {
    since_ms: u64,
    until_ms: u64,
    release: Vec<u8>,
    instance: Option<u32>,
    stream: Option<Stream>,
    needle: Option<Needle>,
}

enum Needle {
    Exact(Box<Finder<'static>>),
    /// In lower case; all ASCII, which is fast.
    Ascii(Vec<u8>),
    /// In lower case.
    Any(String),
}

impl Sieve {
    pub fn new(query: &LogQuery, now_ms: u64) -> Sieve {
        let days = query.days.map_or(0, |days| now_ms.saturating_sub(u64::from(days) * DAY_MS));
        Sieve {
            since_ms: query.since_ms.unwrap_or(0).max(days),
            until_ms: query.until_ms.unwrap_or(u64::MAX),
            release: query.release.clone().unwrap_or_default().into_bytes(),
            instance: query.instance,
            stream: query.stream,
            needle: query.grep.as_deref().filter(|text| !text.is_empty()).map(|text| match query.ignore_case {
                false => Needle::Exact(Box::new(Finder::new(text.as_bytes()).into_owned())),
                true if text.is_ascii() => Needle::Ascii(text.to_ascii_lowercase().into_bytes()),
                true => Needle::Any(text.to_lowercase()),
            }),
        }
    }

    pub fn passes(&self, entry: &Entry<'_>) -> bool {
        (self.since_ms..=self.until_ms).contains(&entry.at_ms)
            && self.instance.is_none_or(|instance| instance == entry.instance)
            && self.stream.is_none_or(|stream| stream == entry.stream)
            && entry.release.starts_with(&self.release)
            && self.needle.as_ref().is_none_or(|needle| needle.is_in(entry.text))
    }

    /// Whether the times matter at all.
    pub fn is_timed(&self) -> bool {
        self.since_ms > 0 || self.until_ms < u64::MAX
    }

    /// Whether a file with these times, of its first and its last entry, is worth a look.
    pub fn may_be_within(&self, first_ms: u64, last_ms: u64) -> bool {
        let (earliest, latest) = (first_ms.min(last_ms), first_ms.max(last_ms));
        latest.saturating_add(SLACK_MS) >= self.since_ms && earliest <= self.until_ms.saturating_add(SLACK_MS)
    }
}

impl Needle {
    fn is_in(&self, text: &[u8]) -> bool {
        match self {
            Needle::Exact(finder) => finder.find(text).is_some(),
            Needle::Ascii(needle) => {
                let first = needle[0];
                let starts = memchr::memchr2_iter(first, first.to_ascii_uppercase(), text);
                let mut found = starts.filter_map(|at| text.get(at..at + needle.len()));
                found.any(|part| part.eq_ignore_ascii_case(needle))
            }
            Needle::Any(needle) => String::from_utf8_lossy(text).to_lowercase().contains(needle.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::name::AppId;

    fn query() -> LogQuery {
        LogQuery::of(AppId::parse("shop").unwrap())
    }

    fn passes(query: &LogQuery, text: &str) -> bool {
        let entry = Entry { at_ms: 1000, stream: Stream::Err, instance: 2, release: b"4f2c9ab", text: text.as_bytes() };
        Sieve::new(query, 3 * DAY_MS).passes(&entry)
    }

    #[test]
    fn each_wish_must_be_met() {
        let fits = LogQuery {
            since_ms: Some(1000),
            until_ms: Some(1000),
            days: Some(3),
            grep: Some("fail".into()),
            release: Some("4f2c".into()),
            instance: Some(2),
            stream: Some(Stream::Err),
            ..query()
        };
        assert!(passes(&fits, "it failed") && passes(&query(), ""));
        let wrong = [
            LogQuery { since_ms: Some(1001), ..fits.clone() },
            LogQuery { until_ms: Some(999), ..fits.clone() },
            LogQuery { days: Some(2), ..fits.clone() },
            LogQuery { grep: Some("Fail".into()), ..fits.clone() },
            LogQuery { release: Some("4f2d".into()), ..fits.clone() },
            LogQuery { instance: Some(1), ..fits.clone() },
            LogQuery { stream: Some(Stream::Out), ..fits.clone() },
        ];
        assert!(wrong.iter().all(|query| !passes(query, "it failed")));
    }

    #[test]
    fn finds_text_in_any_case_when_asked() {
        let grep = |text: &str| LogQuery { grep: Some(text.into()), ignore_case: true, ..query() };
        for (needle, text, found) in [
            ("ERROR", "an Error", true),
            ("error", "eerroR", true),
            ("error", "erro", false),
            ("r", "", false),
            ("STRASSE é", "strasse É", true),
            ("é", "e", false),
            ("", "anything", true),
        ] {
            assert_eq!(passes(&grep(needle), text), found, "{needle} in {text}");
        }
    }

    #[test]
    fn a_file_is_skipped_when_all_of_it_is_far_away() {
        let since = Sieve::new(&LogQuery { since_ms: Some(10 * DAY_MS), ..query() }, 0);
        assert!(!since.may_be_within(8 * DAY_MS, 9 * DAY_MS));
        assert!(since.may_be_within(8 * DAY_MS, 10 * DAY_MS - SLACK_MS));
        let until = Sieve::new(&LogQuery { until_ms: Some(10 * DAY_MS), ..query() }, 0);
        assert!(until.may_be_within(8 * DAY_MS, 12 * DAY_MS));
        // The clock was set back within the file.
        assert!(until.may_be_within(12 * DAY_MS, 8 * DAY_MS));
        assert!(!until.may_be_within(11 * DAY_MS, 12 * DAY_MS));
        assert!(since.is_timed() && until.is_timed() && !Sieve::new(&query(), 0).is_timed());
    }
}
