//! A terminal of 80 columns, which is tmux: what a person sees of a command, and the keys that they press.
//!
//! **Invariant**: it ends with its value, and with it the command.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::sandbox::until;

pub const COLUMNS: usize = 80;
const ROWS: usize = 60;

pub struct Terminal {
    /// The name of a tmux server that nobody else has.
    name: String,
    dir: TempDir,
}

impl Terminal {
    /// Starts `command` with the environment and the folder that it has been given.
    pub fn run(command: &Command) -> Terminal {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tako-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = TempDir::new().unwrap();
        let [script, config] = ["script", "config"].map(|file| dir.path().join(file));
        fs::write(&script, script_of(command, &dir.path().join("status"))).unwrap();
        // The pane outlives the command, so that its last words can be read, and says nothing of its own.
        let settings = "set -g remain-on-exit on\nset -g remain-on-exit-format ''\nset -g status off\n\
                        set -g default-terminal tmux-256color\n";
        fs::write(&config, settings).unwrap();
        let terminal = Terminal { name, dir };
        let size = [COLUMNS, ROWS].map(|n| n.to_string());
        let shell = format!("sh {}", script.display());
        terminal.tmux(&["-f", path(&config), "new-session", "-d", "-x", &size[0], "-y", &size[1], &shell]);
        terminal
    }

    /// What is on the screen, with the colours as escape sequences (ECMA-48 SGR); without the empty lines at its end.
    pub fn screen(&self) -> String {
        let screen = self.tmux(&["capture-pane", "-p", "-e"]);
        screen.trim_end().to_string()
    }

    /// The screen as soon as all of `words` are on it.
    pub fn shows(&self, words: &[&str]) -> String {
        let shown = until(|| {
            let screen = self.screen();
            let plain = plain(&screen);
            words.iter().all(|word| plain.contains(word)).then_some(screen)
        });
        shown.unwrap_or_else(|| panic!("{words:?} were not shown:\n{}", self.screen()))
    }

    /// As tmux names them: `y`, `Enter`, `C-c`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The screen and the exit status once the command has ended.
    pub fn end(&self) -> (String, i32) {
        let ended = until(|| {
            let is_over = self.tmux(&["display-message", "-p", "#{pane_dead}"]).trim() == "1";
            // By itself tmux does not always know it.
            let status = fs::read_to_string(self.dir.path().join("status")).ok()?;
            status.trim().parse().ok().filter(|_| is_over)
        });
        let screen = self.screen();
        (screen.clone(), ended.unwrap_or_else(|| panic!("the command goes on:\n{screen}")))
    }

    fn tmux(&self, args: &[&str]) -> String {
        let out = Command::new("tmux").args(["-u", "-L", &self.name]).args(args).output();
        let out = out.expect("tmux is installed (make test installs it)");
        assert!(out.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.name, "kill-server"]).output();
    }
}

/// A screen without its colours.
pub fn plain(screen: &str) -> String {
    let mut text = String::new();
    let mut rest = screen;
    while let Some(at) = rest.find('\x1b') {
        text.push_str(&rest[..at]);
        rest = rest[at..].find('m').map_or("", |end| &rest[at + end + 1..]);
    }
    text + rest
}

/// Runs the command and writes its exit status to the file `status`.
fn script_of(command: &Command, status: &Path) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let mut script = String::from("unset CI NO_COLOR GITHUB_ACTIONS CLICOLOR_FORCE FORCE_COLOR\nexport LANG=C.UTF-8\n");
    for (name, value) in command.get_envs() {
        let name = name.to_str().unwrap();
        match value {
            Some(value) => writeln!(script, "export {name}={}", quoted(value.to_str().unwrap())),
            None => writeln!(script, "unset {name}"),
        }
        .unwrap();
    }
    writeln!(script, "cd {}", quoted(path(command.get_current_dir().unwrap()))).unwrap();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(word.to_str().unwrap())).collect();
    // The keys that end the command are not for the shell.
    script + &format!("trap : INT\n{}\necho $? > {}\n", words.join(" "), quoted(path(status)))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
