use std::time::Duration;

use super::look::Surroundings;
use super::*;

/// A stream whose text a test can read.
#[derive(Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream that fails.
struct Failing(io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

const PLAIN: Look = Look {
    color_out: false,
    color_err: false,
    unicode: true,
    terminal_out: false,
    terminal_err: false,
    animated: false,
    interactive: false,
    actions: false,
};

impl Ui {
    /// A Ui without a terminal, and its standard output and standard error.
    pub(crate) fn captured(settings: Settings) -> (Ui, Paper, Paper) {
        captured(settings, PLAIN)
    }

    /// One on a terminal of 60 columns that can neither colour nor redraw, and shows more than ASCII if `unicode`.
    pub(crate) fn captured_narrow(unicode: bool) -> (Ui, Paper, Paper) {
        let look = Look { unicode, terminal_out: true, terminal_err: true, ..PLAIN };
        let (out, err) = (Paper::default(), Paper::default());
        let ui = Ui::sized(Settings::default(), look, Box::new(out.clone()), Box::new(err.clone()), || (24, 60));
        (ui, out, err)
    }
}

fn captured(settings: Settings, look: Look) -> (Ui, Paper, Paper) {
    let (out, err) = (Paper::default(), Paper::default());
    (Ui::with(settings, look, Box::new(out.clone()), Box::new(err.clone())), out, err)
}

/// Times in brackets differ from run to run.
fn without_times(text: &str) -> String {
    text.lines().map(|l| l.split_once("] ").map_or(l, |(_, rest)| rest).to_string() + "\n").collect()
}

#[test]
fn off_a_terminal_there_is_one_plain_line_per_change_of_state() {
    let (ui, out, err) = captured(Settings::default(), PLAIN);
    let build = ui.task("Build");
    build.set("bun run build");
    build.set("bun run build");
    build.progress(1, 2);
    build.done("2.4 MB");
    let server = ui.task("fra1");
    let upload = server.child("upload");
    upload.done("19 kB");
    server.fail("fra1: instance 1 of 2 not ready\nafter 30s");
    drop(ui.task("nyc1"));
    ui.note("a note");
    ui.detail("not without --verbose");
    ui.out("https://my-app.example.com");
    assert_eq!(
        without_times(&err.text()),
        "build bun run build\nbuild ok 2.4 MB\nfra1 upload ok 19 kB\nfra1 failed: instance 1 of 2 not ready after 30s\n\
         nyc1 stopped\na note\n"
    );
    assert!(err.text().starts_with("[ 0."), "{}", err.text());
    assert_eq!(out.text(), "https://my-app.example.com\n");
}

#[test]
fn with_json_standard_output_is_events_alone() {
    let (ui, out, _) = captured(Settings { json: true, ..Settings::default() }, PLAIN);
    ui.task("Build").done("2.4 MB");
    ui.out("not shown");
    ui.table(&["A"], &[]);
    ui.event("result", json!({}));
    ui.error(&Error::new(Kind::Busy, "locked").hint("wait"));
    let lines: Vec<serde_json::Value> = out.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(out.text().starts_with(r#"{"v":1,"event":"task","#), "{}", out.text());
    assert_eq!((lines[0]["task"].as_str(), lines[0]["state"].as_str()), (Some("Build"), Some("ok")));
    assert_eq!(lines[1], json!({ "v": 1, "event": "result" }));
    assert_eq!((lines[2]["event"].as_str(), lines[2]["kind"].as_str()), (Some("error"), Some("busy")));
    assert_eq!(lines.len(), 3);
}

#[test]
fn quiet_leaves_results_warnings_and_errors() {
    let (ui, out, err) = captured(Settings { quiet: true, verbose: false, ..Settings::default() }, PLAIN);
    ui.task("Build").done("2.4 MB");
    ui.note("a note");
    ui.out("the result");
    ui.warn("look out");
    assert_eq!((out.text().as_str(), err.text().as_str()), ("the result\n", "warning: look out\n"));
}

#[test]
fn an_error_is_told_with_detail_and_hint() {
    let (ui, _, err) = captured(Settings::default(), PLAIN);
    ui.error(&Error::new(Kind::Io, "read \x1b[2Jx").with_detail(vec!["one".into(), String::new()]).hint("do this"));
    assert_eq!(err.text(), "error: read \\u{1b}[2Jx\n  one\n\n  hint: do this\n");
}

#[test]
fn without_a_terminal_every_question_fails_at_once_naming_the_flag() {
    let (ui, _, err) = captured(Settings::default(), PLAIN);
    for e in [
        ui.confirm("Really?", "--yes").unwrap_err(),
        ui.ask("Which?", Some("this"), "--yes").unwrap_err(),
        ui.ask_secret("Value of X", "--yes").unwrap_err(),
    ] {
        assert_eq!(e.kind(), Kind::NeedsInput);
        assert!(e.next_step().unwrap().contains("--yes"), "{e}");
    }
    assert_eq!(err.text(), "");
    let (ui, ..) = captured(Settings { yes: true, ..Settings::default() }, PLAIN);
    assert!(ui.confirm("Really?", "--yes").unwrap());
}

#[test]
fn a_reader_that_went_away_is_fine_and_a_full_disk_is_not() {
    let ended = |why| {
        let ui = Ui::with(Settings::default(), PLAIN, Box::new(Failing(why)), Box::new(Failing(why)));
        assert!(!ui.is_closed());
        ui.out("x");
        ui.note("x");
        ui.task("Build").done("");
        assert!(ui.is_closed());
        ui.close().map_err(|e| e.kind())
    };
    assert_eq!(ended(io::ErrorKind::BrokenPipe), Ok(()));
    assert_eq!(ended(io::ErrorKind::StorageFull), Err(Kind::Io));
}

#[test]
fn text_stands_above_the_tree_and_the_last_picture_stays() {
    let look = Look { animated: true, ..PLAIN };
    let (ui, _, err) = captured(Settings::default(), look);
    let task = ui.task("Build");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !err.text().contains("Build") && Instant::now() < deadline {
        thread::yield_now();
    }
    ui.note("a note");
    task.done("2.4 MB");
    ui.close().unwrap();
    let text = err.text();
    let (before, after) = text.split_once("a note\n").unwrap();
    assert!(before.ends_with("\r\x1b[1A\x1b[J"), "{text:?}");
    assert!(after.contains("✓ Build     2.4 MB") && after.ends_with("\x1b[K\n\x1b[J"), "{text:?}");
}

#[test]
fn what_failed_stands_above_the_error() {
    let (ui, _, err) = captured(Settings::default(), Look { animated: true, ..PLAIN });
    ui.task("Build").fail("exit code 1");
    ui.error(&Error::new(Kind::Build, "the build failed"));
    ui.close().unwrap();
    let text = err.text();
    assert!(text.rfind("✗ Build").unwrap() < text.rfind("error: the build failed").unwrap(), "{text:?}");
}

#[test]
fn github_actions_folds_the_phases_and_shows_the_failure_on_the_page_of_the_run() {
    let (ui, out, err) = captured(Settings::default(), Look { actions: true, ..PLAIN });
    let build = ui.phase("Build");
    ui.task("Build").done("2.4 MB");
    ui.note("::stop-commands::x");
    drop(build);
    let _deploy = ui.phase("Deploy");
    ui.error(
        &Error::new(Kind::Rejected, "nyc1: 50%, not ready").with_detail(vec!["::error::boom".into()]).more("tako logs"),
    );
    assert_eq!(
        without_times(&err.text()),
        "::group::Build\nbuild ok 2.4 MB\n: :stop-commands::x\n::endgroup::\n::group::Deploy\n::endgroup::\n\
         ::error title=tako::nyc1: 50%25, not ready%0A  ::error::boom%0A  more: tako logs\n\
         error: nyc1: 50%, not ready\n  : :error::boom\n  more: tako logs\n"
    );
    assert_eq!(out.text(), "");
    // With --json nothing of it is written.
    let settings = Settings { json: true, ..Settings::default() };
    let look = Look::of(
        &settings,
        &Surroundings { stdin_tty: false, stdout_tty: false, stderr_tty: false, var: &|_| Some("true".into()) },
    );
    let (ui, _, err) = captured(settings, look);
    drop(ui.phase("Build"));
    ui.error(&Error::new(Kind::Io, "x"));
    assert!(!err.text().contains("::"), "{}", err.text());
}

#[test]
fn a_silent_task_has_a_heartbeat() {
    let (out, err) = (Paper::default(), Paper::default());
    let start = Instant::now();
    let mut screen = Screen::new(Box::new(out), Box::new(err.clone()), PLAIN, Tasks::Lines, terminal_size, start);
    let at = |s| start + Duration::from_secs(s);
    assert_eq!(screen.tick(at(0)), None);
    let id = screen.add(None, "Build", at(0));
    assert_eq!(screen.tick(at(5)), Some(Duration::from_secs(10)));
    assert_eq!(screen.tick(at(15)), Some(Duration::from_secs(15)));
    assert_eq!(screen.tick(at(16)), Some(Duration::from_secs(14)));
    assert_eq!(err.text(), "[15.0s] still at it: build\n");
    screen.end(id, End::Done, "", at(17));
    assert_eq!(screen.tick(at(60)), None);
    assert_eq!(err.text().lines().last().unwrap(), "[17.0s] build ok");
}

#[test]
fn draws_at_most_ten_times_a_second_and_never_over_a_question() {
    let (out, err) = (Paper::default(), Paper::default());
    let start = Instant::now();
    let look = Look { animated: true, ..PLAIN };
    let mut screen = Screen::new(Box::new(out), Box::new(err.clone()), look, Tasks::Drawn, || (24, 80), start);
    let at = |ms| start + Duration::from_millis(ms);
    screen.add(None, "Build", at(0));
    screen.tick(at(0));
    let drawn = err.text();
    assert_eq!(screen.tick(at(40)), Some(Duration::from_millis(60)));
    assert_eq!(err.text(), drawn);
    screen.ask("Really?");
    let asked = err.text();
    assert!(asked.ends_with("Really? "), "{asked:?}");
    screen.tick(at(500));
    assert_eq!(err.text(), asked);
    screen.answered(false);
    screen.tick(at(600));
    assert!(err.text().len() > asked.len());
}

#[test]
fn a_tree_taller_than_the_terminal_is_cut() {
    let (out, err) = (Paper::default(), Paper::default());
    let start = Instant::now();
    let look = Look { animated: true, ..PLAIN };
    let mut screen = Screen::new(Box::new(out), Box::new(err.clone()), look, Tasks::Drawn, || (6, 80), start);
    for n in 0..10 {
        screen.add(None, &format!("s{n}"), start);
    }
    screen.tick(start);
    assert_eq!(err.text().matches('\n').count(), 4);
    assert!(err.text().contains("… and 7 more"), "{}", err.text());
}
