//! What ended an instance, or kept it from starting: its program file, its exit code, the signal.

use super::said::{self, Words};
use super::{End, Evidence, Exit, File, Reason, by_words};

/// Why the kernel would not start it.
pub(super) fn by_file(e: &Evidence<'_>) -> Option<Reason> {
    let program = e.program;
    let (why, hint) = match &e.file {
        File::Fine => return None,
        File::Text => (
            format!("`{program}` has no `#!` line, so the kernel does not know what runs it"),
            format!("begin {program} with a line such as `#!/usr/bin/env node`"),
        ),
        File::Missing => (
            format!("there is no file `{program}` on the server"),
            format!("check `main` or `start`, and that the build makes {program} and nothing ignores it"),
        ),
        File::Folder => {
            (format!("`{program}` is a folder, not a program"), "set `main` to the program in it".to_owned())
        }
        File::Empty => (format!("the file `{program}` is empty"), "check what the build writes".to_owned()),
        File::NotExecutable => (
            format!("`{program}` is not executable"),
            format!("run `chmod +x {program}` in the build, or before you commit it"),
        ),
        File::Interpreter { name, carriage_return: true } => (
            format!("the first line of `{program}` ends with a carriage return, so `{name}\\r` is looked for"),
            "save it with Unix line ends (LF), for instance by `dos2unix`".to_owned(),
        ),
        File::Interpreter { name, carriage_return: false } => (
            format!("the interpreter of `{program}`, `{name}`, is not on the server"),
            format!("install {name} on the server, or change the first line of {program}"),
        ),
        File::Loader(loader) => (
            format!("`{program}` needs the loader `{loader}`, which is not on the server"),
            match loader.contains("musl") {
                true => "build for glibc, link statically, or install musl on the server".to_owned(),
                false => "build for this server's C library, or link statically".to_owned(),
            },
        ),
        File::Foreign { made_for, here } => (
            format!("`{program}` is built for {made_for}, and this server is {here}"),
            format!("build {program} for {here}"),
        ),
    };
    let proof = match &e.end {
        End::NotStarted { error, .. } => vec![error.clone()],
        _ => Vec::new(),
    };
    Some(Reason { why, proof, hint })
}

pub(super) fn by_exit(e: &Evidence<'_>, exit: Exit) -> Option<Reason> {
    match exit {
        Exit::Code(0) if e.strayed => Some(Reason {
            why: "it went into the background".into(),
            proof: vec!["what it had started was still running when it ended".into()],
            hint: "make it stay in the foreground (often `--foreground` or `daemon off`)".into(),
        }),
        Exit::Code(0) => Some(Reason {
            why: "it ended by itself, but a server must go on".into(),
            proof: Vec::new(),
            hint: "start a server that listens on $PORT and keeps running; a script or a daemon that forks ends".into(),
        }),
        Exit::Signal(signal) => by_signal(e, signal, ""),
        // A shell in between tells the signal so; what ended by itself with such a code has told why.
        Exit::Code(code @ (132 | 134..=137 | 139 | 143)) if by_words(e).is_none() => {
            by_signal(e, code - 128, "what it ran was ended by a signal: ")
        }
        // Nobody was there to be told how.
        Exit::Code(_) | Exit::Unknown => None,
    }
}

fn by_signal(e: &Evidence<'_>, signal: i32, before: &str) -> Option<Reason> {
    let reason = |why: &str, proof: Vec<String>, hint: &str| {
        Some(Reason { why: format!("{before}{why}"), proof, hint: hint.into() })
    };
    match signal {
        libc::SIGKILL => {
            let more = "give it more memory, or find out what it holds on to";
            match (e.oom_kills, e.machine_oom_kills) {
                (Some(n), _) if n > 0 => reason(
                    &match e.memory_limit {
                        Some(bytes) => format!("it reached its memory limit of {} MiB", bytes >> 20),
                        None => "it ran out of memory".into(),
                    },
                    vec![format!("the kernel killed {n} of its processes for want of memory")],
                    "raise `memory` under [limits], or find out what it holds on to",
                ),
                (_, Some(n)) if n > 0 => reason(
                    "the machine ran out of memory",
                    vec![format!("the kernel killed {n} of the machine's processes for want of memory meanwhile")],
                    more,
                ),
                _ => reason(
                    "it was killed from outside, not by Tako",
                    Vec::new(),
                    "somebody ran `kill -9`, or it ran out of memory: `dmesg` tells of the latter",
                ),
            }
        }
        libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT | libc::SIGUSR1 | libc::SIGUSR2 => reason(
            "it was ended from outside, not by Tako",
            Vec::new(),
            "find out who sends that signal: an operator, a script, or the app itself",
        ),
        // What runs out of its own heap aborts, and a failed assertion too; they say so.
        _ if said::find(&Words::of(e)).is_some() => None,
        libc::SIGSEGV | libc::SIGBUS => reason(
            "it crashed: native code touched memory that is not its own",
            Vec::new(),
            "look for native modules that are not built for this runtime, or another version of the runtime",
        ),
        libc::SIGILL | libc::SIGTRAP => reason(
            "it crashed: it met an instruction that this processor lacks, or gave up by itself",
            Vec::new(),
            "build for an older processor (a `baseline` build), or see what it printed last",
        ),
        libc::SIGABRT => reason("it aborted itself", Vec::new(), "see what it printed last"),
        libc::SIGXFSZ => reason("it wrote a file larger than it may", Vec::new(), "write less, or elsewhere"),
        libc::SIGXCPU => reason("it used up its processor time", Vec::new(), "raise the limit of the server's user"),
        libc::SIGSYS => {
            reason("it made a system call that is not allowed here", Vec::new(), "see the rules of the server's unit")
        }
        _ => None,
    }
}
