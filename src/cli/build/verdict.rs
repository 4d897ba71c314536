//! Verdict: how a command of a build ended, in words, and what mostly helps. It looks at nothing but what it is given.

use std::process::ExitStatus;

use crate::proto::packages;

/// What most people have to do who read these words. The first that fits is told.
const CAUSES: [(&[&str], &str); 7] = [
    (
        &["JavaScript heap out of memory", "Cannot allocate memory", "ENOMEM", "fatal error: out of memory"],
        "it ran out of memory: give it more, for Node by `NODE_OPTIONS=--max-old-space-size=4096` before the command",
    ),
    (&["ENOSPC", "No space left on device"], "the disk is full: make room, then run it again"),
    (
        &["\"packageManager\": \"yarn@", "This project is configured to use"],
        "package.json names another package manager, or another version of it: `corepack enable` brings the right one",
    ),
    (packages::UNFIT, packages::REFIT),
    (
        &["--locked was passed to prevent this"],
        "Cargo.lock is not in the source or does not fit Cargo.toml: build once by hand and commit it; git must not ignore it",
    ),
    (
        &["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ERR_PNPM_META_FETCH_FAIL", "ConnectionRefused"],
        "something could not be reached over the network: is the registry of packages right, and up?",
    ),
    (
        &["Cannot find module", "Cannot find package", "ERR_MODULE_NOT_FOUND", "Module not found", "Could not resolve"],
        "a build sees what a fresh checkout has: nothing that git ignores, no `.env*`; packages as they are installed",
    ),
];

/// Where programs come from that a build may want.
const PROGRAMS: [(&str, &str); 15] = [
    ("node", "install Node.js, for example by `mise use node@lts`"),
    ("npm", "it comes with Node.js, for example by `mise use node@lts`; Debian has a package `npm`"),
    ("npx", "it comes with npm"),
    ("pnpm", "`npm install --global pnpm` or `corepack enable` brings it"),
    ("yarn", "`corepack enable` brings it, or `npm install --global yarn` its version 1"),
    ("corepack", "`npm install --global corepack` brings it"),
    ("bun", "`npm install --global bun` or `mise use bun@latest` brings it"),
    ("bunx", "it comes with bun: `npm install --global bun`"),
    ("deno", "`npm install --global deno` or `mise use deno@latest` brings it"),
    ("cargo", "it comes with Rust: `mise use rust@stable`, or rustup"),
    ("go", "`mise use go@latest` brings it; Debian has a package `golang-go`"),
    ("uv", "`mise use uv@latest` or `pip install uv` brings it"),
    ("make", "Debian has a package `make`"),
    ("cc", "Debian has a package `gcc`"),
    ("python3", "Debian has a package `python3`"),
];

/// `None` for one that did not end by itself and would not be stopped.
pub(crate) fn ending(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = status else { return "did not end".into() };
    match (status.code(), status.signal()) {
        // What a shell says of a command of its own that was ended by a signal (POSIX, Shell, 2.8.2).
        (Some(code @ 129..=192), _) => format!("ended with exit code {code} ({})", signal_name(code - 128)),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by {}", signal_name(signal)),
        (None, None) => "did not end".into(),
    }
}

/// The next step of who reads `lines`, the last that were said.
pub(crate) fn hint(status: Option<ExitStatus>, lines: &[String]) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    const KILLED: i32 = 9;
    let (code, signal) = (status.and_then(|s| s.code()), status.and_then(|s| s.signal()));
    if let Some(program) = lines.iter().rev().find_map(|line| not_found(line)).filter(|_| code == Some(127)) {
        let known = PROGRAMS.iter().find(|(name, _)| *name == program).map(|(_, from)| *from);
        let from = known.unwrap_or("if a package of the project has it, is that installed and in package.json?");
        return Some(format!("there is no `{program}` here: {from}"));
    }
    let known = CAUSES.iter().find(|(words, _)| lines.iter().any(|line| words.iter().any(|word| line.contains(word))));
    if let Some((_, help)) = known {
        return Some((*help).into());
    }
    match (code, signal) {
        (_, Some(KILLED)) => Some("nobody of us did that: mostly the kernel does, when memory runs out".into()),
        (Some(code), _) if code == 128 + KILLED => {
            Some("one of its programs was killed: mostly by the kernel, when memory runs out".into())
        }
        (Some(126), _) => Some("it is there and may not be run: `chmod +x`, and commit that".into()),
        _ => None,
    }
}

/// The program that a shell did not find: `sh: 1: vite: not found`, `bash: line 1: vite: command not found`.
fn not_found(line: &str) -> Option<&str> {
    let before = line.strip_suffix(": not found").or_else(|| line.strip_suffix(": command not found"))?;
    let program = before.rsplit(": ").next()?.trim();
    (!program.is_empty() && !program.contains(char::is_whitespace)).then_some(program)
}

fn signal_name(signal: i32) -> String {
    let words = match signal {
        1 => "SIGHUP, its terminal went away",
        2 => "SIGINT, as by Ctrl-C",
        3 => "SIGQUIT",
        4 => "SIGILL, an instruction that this processor has not",
        6 => "SIGABRT, it gave up by itself",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV, it crashed",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        other => return format!("signal {other}"),
    };
    words.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn code(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    fn signal(signal: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(signal))
    }

    #[test]
    fn says_how_it_ended() {
        let check = |status, expected: &str| assert_eq!(ending(status), expected);
        check(code(3), "ended with exit code 3");
        check(code(137), "ended with exit code 137 (SIGKILL)");
        check(code(255), "ended with exit code 255");
        check(signal(11), "was ended by SIGSEGV, it crashed");
        check(signal(40), "was ended by signal 40");
        check(None, "did not end");
    }

    #[test]
    fn says_what_mostly_helps() {
        let check = |status, lines: &[&str], expected: Option<&str>| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let hint = hint(status, &lines);
            match expected {
                None => assert_eq!(hint, None, "{lines:?}"),
                Some(words) => assert!(hint.as_ref().is_some_and(|h| h.contains(words)), "{lines:?}: {hint:?}"),
            }
        };
        check(code(1), &["Error: x"], None);
        check(code(127), &["/bin/sh: 1: pnpm: not found"], Some("no `pnpm` here: `npm install --global pnpm`"));
        check(code(127), &["bash: line 1: yarn: command not found", ""], Some("corepack enable"));
        check(code(127), &["/bin/sh: vite: not found"], Some("no `vite` here: if a package of the project"));
        check(code(1), &["page: not found"], None);
        check(code(126), &["/bin/sh: 1: ./x: Permission denied"], Some("chmod +x"));
        check(signal(9), &[], Some("memory"));
        check(code(137), &["Killed"], Some("memory"));
        check(signal(6), &["FATAL ERROR: … JavaScript heap out of memory"], Some("max-old-space-size"));
        check(code(1), &["npm error code ENOSPC"], Some("disk is full"));
        check(code(1), &[" ERR_PNPM_OUTDATED_LOCKFILE  Cannot install"], Some("lock file does not fit"));
        let locked = "error: cannot create the lock file /x/Cargo.lock because --locked was passed to prevent this";
        check(code(101), &[locked], Some("Cargo.lock is not in the source"));
        check(
            code(1),
            &["error This project's package.json defines \"packageManager\": \"yarn@4.1.0\"."],
            Some("corepack"),
        );
        check(code(1), &["Error: Cannot find module './generated'"], Some("fresh checkout"));
    }
}
