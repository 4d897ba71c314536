//! Wanted: which lines the command line asks for, and how that is asked of a server.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::cli::args::Args;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{LogQuery, Stream};
use crate::proto::name::AppId;

/// Without `--lines`, and without a time.
const LINES: u32 = 100;
/// As long as it is useful to look for; servers refuse more.
const MAX_GREP: usize = 4 << 10;
/// Ten years; no log is older.
const MAX_DAYS: u32 = 3650;

#[derive(Debug)]
pub(crate) struct Wanted {
    pub follow: bool,
    /// Requests instead of what was printed.
    pub access: bool,
    lines: Option<u32>,
    since: Option<When>,
    until: Option<When>,
    days: Option<u32>,
    grep: Option<String>,
    ignore_case: bool,
    release: Option<String>,
    instance: Option<u32>,
    stream: Option<Stream>,
    /// The filters as they were typed, for the answer that there is nothing.
    typed: Vec<String>,
}

/// A time as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// By the clock of the server, in milliseconds.
    Ago(u64),
    /// Milliseconds since 1970.
    At(u64),
}

impl When {
    fn days(days: u32) -> When {
        When::Ago(u64::from(days) * 24 * 3600 * 1000)
    }

    /// Of two ages, or of two times, whatever the clock of a server says; of one of each by our own.
    fn is_before(self, other: When, now_ms: u64) -> bool {
        match (self, other) {
            (When::Ago(one), When::Ago(other)) => one > other,
            (one, other) => one.by(now_ms) < other.by(now_ms),
        }
    }

    /// In milliseconds since 1970, by a clock that says `now_ms`.
    fn by(self, now_ms: u64) -> u64 {
        match self {
            When::Ago(ms) => now_ms.saturating_sub(ms),
            When::At(ms) => ms,
        }
    }
}

impl Wanted {
    /// # Errors
    /// Usage, for each value that cannot be meant.
    pub fn of(args: &Args) -> Result<Wanted> {
        let (since, until) = (when(args, "since")?, when(args, "until")?);
        let follow = args.flag("tail");
        let days = args.parsed::<u32>("days")?;
        if days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
            return Err(wrong(args, "days", "no number of days", format!("give 1 to {MAX_DAYS}")));
        }
        if since.is_some() && days.is_some() {
            return Err(Error::new(Kind::Usage, "`--since` and `--days` say two things about the same")
                .hint("give one of them"));
        }
        if let (Some(from), Some(to)) = (since.or(days.map(When::days)), until)
            && to.is_before(from, u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
        {
            return Err(empty(args));
        }
        if follow && until.is_some() {
            return Err(Error::new(Kind::Usage, "`--tail` goes on, and `--until` ends").hint("give one of them"));
        }
        let grep = args.value("grep").map(str::to_string);
        if grep.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_GREP || text.contains(['\n', '\r'])) {
            let hint = format!("give a part of one line, of 1 to {MAX_GREP} bytes");
            return Err(wrong(args, "grep", "nothing that a line can hold", hint));
        }
        if args.flag("ignore-case") && grep.is_none() {
            return Err(Error::new(Kind::Usage, "`--ignore-case` is about `--grep`").hint("add --grep TEXT"));
        }
        let release = args.value("release").map(str::to_string);
        let is_version = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if release.as_deref().is_some_and(|text| !is_version(text)) {
            return Err(wrong(args, "release", "no release", "`tako releases ls` shows them".into()));
        }
        let instance = args.parsed::<u32>("instance")?;
        if instance == Some(0) {
            return Err(wrong(args, "instance", "no instance", "`tako status` shows them; the first is 1".into()));
        }
        let access = args.flag("access");
        if let Some(flag) = ["release", "instance"].into_iter().find(|flag| access && args.value(flag).is_some()) {
            return Err(Error::new(
                Kind::Usage,
                format!("a line of `--access` does not tell what `--{flag}` asks for"),
            )
            .hint("give one of them"));
        }
        let is_timed = since.is_some() || until.is_some() || days.is_some();
        let lines = args.parsed("lines")?.or((!is_timed).then_some(LINES));
        let flags = ["since", "until", "days", "grep", "release", "instance"];
        let typed = flags.iter().filter_map(|flag| Some(format!("--{flag} {}", args.value(flag)?.escape_debug())));
        Ok(Wanted {
            follow,
            access,
            lines,
            since,
            until,
            days,
            grep,
            ignore_case: args.flag("ignore-case"),
            release,
            instance,
            stream: args.flag("err").then_some(Stream::Err),
            typed: typed.chain(args.flag("err").then(|| "--err".into())).collect(),
        })
    }

    /// To a server whose clock says `now_ms`: a laptop's may be wrong.
    pub fn query(&self, app: &AppId, now_ms: u64) -> LogQuery {
        let at = |when: When| when.by(now_ms);
        LogQuery {
            app: app.clone(),
            follow: self.follow,
            lines: self.lines,
            since_ms: self.since.map(at),
            until_ms: self.until.map(at),
            days: self.days,
            grep: self.grep.clone(),
            ignore_case: self.ignore_case,
            release: self.release.clone(),
            instance: self.instance,
            stream: self.stream,
            access: self.access,
        }
    }

    /// The last so many of all servers together, and so of each.
    pub fn lines(&self) -> Option<u32> {
        self.lines
    }

    pub fn nothing_found(&self, app: &AppId, servers: &[&str]) -> String {
        let on = servers.join(", ");
        match self.typed.is_empty() {
            true if self.access => format!("no request for {app} is in the access log of {on}"),
            true => format!("{app} has printed nothing on {on}; `tako status` says whether it runs"),
            false => format!(
                "no line of {app} on {on} is all of {}; the newest 50 MiB of each server were looked through",
                self.typed.join(" ")
            ),
        }
    }
}

fn when(args: &Args, flag: &str) -> Result<Option<When>> {
    let Some(typed) = args.value(flag) else { return Ok(None) };
    let hint = "give an age such as 90s, 30m, 2h or 3d, or a time such as 2026-11-22T07:30 (yours) or \
                2026-11-22T07:30Z (UTC)";
    match parse(typed, &TimeZone::system()) {
        Some(when) => Ok(Some(when)),
        None => Err(wrong(args, flag, "no time", hint.into())),
    }
}

fn parse(typed: &str, zone: &TimeZone) -> Option<When> {
    if let Some((unit, count)) = typed.char_indices().last().map(|(at, unit)| (unit, &typed[..at]))
        && let Ok(count) = count.parse::<u32>()
    {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return None,
        };
        return Some(When::Ago(u64::from(count) * seconds * 1000));
    }
    let at = match typed.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => {
            let civil = typed.parse::<DateTime>().or_else(|_| typed.parse::<Date>().map(|d| d.at(0, 0, 0, 0))).ok()?;
            zone.to_timestamp(civil).ok()?
        }
    };
    at.as_millisecond().try_into().ok().map(When::At)
}

/// Nothing can lie between the two times.
fn empty(args: &Args) -> Error {
    let (flag, hint) = match args.value("since") {
        Some(_) => ("since", "give the earlier time to `--since` and the later one to `--until`"),
        None => ("days", "give more days, or a later `--until`"),
    };
    let (from, until) = (shown(args, flag), shown(args, "until"));
    Error::new(Kind::Usage, format!("`{until}` ends before `{from}` begins, so no line can be in between")).hint(hint)
}

fn wrong(args: &Args, flag: &str, why: &str, hint: String) -> Error {
    Error::new(Kind::Usage, format!("`{}` is {why}", shown(args, flag))).hint(hint)
}

/// A flag as it was typed.
fn shown(args: &Args, flag: &str) -> String {
    let value: String = args.value(flag).unwrap_or_default().chars().take(80).flat_map(char::escape_debug).collect();
    format!("--{flag} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Wish;

    fn wanted(line: &[&str]) -> Result<Wanted> {
        match Args::parse(["logs"].iter().chain(line))? {
            Wish::Run(args) => Wanted::of(&args),
            _ => panic!("{line:?} is no command"),
        }
    }

    fn query(line: &[&str]) -> LogQuery {
        wanted(line).unwrap().query(&AppId::parse("shop").unwrap(), 1_000_000_000)
    }

    #[test]
    fn flags_become_a_question() {
        let none = LogQuery { lines: Some(LINES), ..LogQuery::of(AppId::parse("shop").unwrap()) };
        assert_eq!(query(&[]), none);
        assert_eq!(query(&["-f", "--lines", "0"]), LogQuery { follow: true, lines: Some(0), ..none.clone() });
        // A time says by itself how much is wanted.
        assert_eq!(query(&["--days", "2"]), LogQuery { days: Some(2), lines: None, ..none.clone() });
        assert_eq!(
            query(&["--since", "2h", "--lines", "7"]),
            LogQuery { since_ms: Some(992_800_000), lines: Some(7), ..none.clone() }
        );
        // What happened at one moment is in between.
        let moment = LogQuery { since_ms: Some(996_400_000), until_ms: Some(996_400_000), lines: None, ..none.clone() };
        assert_eq!(query(&["--since", "1h", "--until", "60m"]), moment);
        assert_eq!(query(&["--access"]), LogQuery { access: true, ..none.clone() });
        let all = ["--grep", "Fehler é", "--ignore-case", "--release", "4f2c", "--instance", "3", "--err"];
        let expected = LogQuery {
            grep: Some("Fehler é".into()),
            ignore_case: true,
            release: Some("4f2c".into()),
            instance: Some(3),
            stream: Some(Stream::Err),
            ..none
        };
        assert_eq!(query(&all), expected);
    }

    #[test]
    fn a_time_is_an_age_or_a_date() {
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        for (typed, expected) in [
            ("90s", Some(When::Ago(90_000))),
            ("30m", Some(When::Ago(1_800_000))),
            ("3d", Some(When::Ago(259_200_000))),
            ("1w", Some(When::Ago(604_800_000))),
            ("1970-01-02T00:00:01Z", Some(When::At(86_401_000))),
            ("1970-01-02T00:00Z", Some(When::At(86_400_000))),
            ("1970-01-02T01:00:00+01:00", Some(When::At(86_400_000))),
            ("1970-01-02T01:00", Some(When::At(86_400_000))),
            ("1970-01-02 01:00:00.5", Some(When::At(86_400_500))),
            ("1970-01-02", Some(When::At(82_800_000))),
            ("yesterday", None),
            ("2x", None),
            ("h", None),
            ("", None),
            ("-2h", None),
            ("99999999999h", None),
            ("1960-01-01", None),
            ("2 é", None),
        ] {
            assert_eq!(parse(typed, &berlin), expected, "{typed}");
        }
    }

    #[test]
    fn says_what_cannot_be_meant() {
        for (line, message, hint) in [
            (&["--since", "soon"][..], "`--since soon` is no time", "give an age such as 90s"),
            (&["--days", "0"], "`--days 0` is no number of days", "give 1 to 3650"),
            (&["--days", "x"], "`--days x` is not a valid N", "`--days N`: "),
            (&["--lines", "-1"], "`--lines -1` is not a valid N", "`--lines N`: "),
            (&["--grep", ""], "`--grep ` is nothing that a line can hold", "give a part of one line"),
            (&["--ignore-case"], "`--ignore-case` is about `--grep`", "add --grep TEXT"),
            (&["--release", "a b"], "`--release a b` is no release", "`tako releases ls` shows them"),
            (&["--instance", "0"], "`--instance 0` is no instance", "`tako status` shows them"),
            (
                &["--access", "--instance", "1"],
                "a line of `--access` does not tell what `--instance` asks for",
                "give one",
            ),
            (&["--since", "1h", "--days", "1"], "`--since` and `--days` say two things", "give one"),
            (
                &["--since", "1h", "--until", "2h"],
                "`--until 2h` ends before `--since 1h` begins, so no line can be in between",
                "give the earlier time to `--since`",
            ),
            (&["--days", "1", "--until", "2d"], "`--until 2d` ends before `--days 1` begins", "give more days"),
            (
                &["--since", "2026-02-02", "--until", "2026-02-01"],
                "`--until 2026-02-01` ends before",
                "give the earlier",
            ),
            (&["--since", "1h", "--until", "2026-02-01"], "`--until 2026-02-01` ends before `--since 1h`", "give the"),
            (&["-f", "--until", "1h"], "`--tail` goes on, and `--until` ends", "give one"),
        ] {
            let e = wanted(line).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{line:?}");
            assert!(e.to_string().starts_with(message), "{line:?}: {e}");
            assert!(e.next_step().unwrap_or_default().starts_with(hint), "{line:?}: {:?}", e.next_step());
        }
    }

    #[test]
    fn nothing_is_said_with_what_was_looked_for() {
        let app = AppId::parse("shop").unwrap();
        let say = |line: &[&str]| wanted(line).unwrap().nothing_found(&app, &["fra1", "nyc1"]);
        assert_eq!(say(&[]), "shop has printed nothing on fra1, nyc1; `tako status` says whether it runs");
        let looked = "no line of shop on fra1, nyc1 is all of --since 2h --grep x --err; the newest 50 MiB";
        assert!(say(&["--grep", "x", "--since", "2h", "--err"]).starts_with(looked));
    }
}
