//! Rules: what runtimes, libraries and shells print when something fails, one function for each thing that fails.
//!
//! They are written from what Node, Bun, Deno, Python, Go, Rust and the C library print. A rule sees one line and says
//! nothing when it is not sure; a name in its reason is always one that the line holds.

use super::said::{LOOK, Words, address, is_taken, quoted, taken_port};

/// Why, and what to do.
pub(super) type Reason = (String, String);
type Rule = fn(&str, &Words<'_>) -> Option<Reason>;

/// Those whose words are rarely part of another message go first.
pub(super) const RULES: [Rule; 16] = [
    native,
    module,
    port_taken,
    privileged_port,
    heap,
    command,
    program,
    setting,
    login,
    unreachable,
    name_unknown,
    descriptors,
    disk,
    file,
    syntax,
    script,
];

fn module(line: &str, words: &Words<'_>) -> Option<Reason> {
    let starts = [
        "Cannot find module ",
        "Cannot find package ",
        "Module not found ",
        "No module named ",
        "cannot load such file -- ",
        "Could not resolve: ",
    ];
    let name = match starts.iter().find_map(|s| line.split_once(s)) {
        Some((_, rest)) => quoted(rest).or_else(|| rest.split_whitespace().next())?,
        None => line.split_once("Import \"").and_then(|(_, rest)| rest.split_once("\" not a dependency"))?.0,
    };
    let name = name.trim_start_matches("file://");
    if name.starts_with(['.', '/']) {
        let name = name.strip_prefix(words.dir).unwrap_or(name);
        let hint = format!("check that {name} is built and part of the release: no ignore rule may leave it out");
        return Some((format!("it loads `{name}`, which is not there"), hint));
    }
    let hint = format!(
        "add {name} to the dependencies (not only the dev ones) and deploy again, with the lock file: nothing is installed \
         without one"
    );
    Some((format!("the module `{name}` is missing"), hint))
}

fn native(line: &str, _: &Words<'_>) -> Option<Reason> {
    if let Some((_, rest)) = line.split_once("error while loading shared libraries: ") {
        let library = rest.split(':').next()?;
        let hint = format!("install the package that has {library} on the server, or link statically");
        return Some((format!("the shared library `{library}` is missing"), hint));
    }
    if let Some((_, rest)) = line.split_once("version `").filter(|(_, rest)| rest.contains("not found")) {
        let version = rest.split('\'').next()?;
        let hint = "build on an older system than the server, or link statically (musl)";
        return Some((format!("the server's C library is older than `{version}`, which it needs"), hint.into()));
    }
    let foreign = ["was compiled against a different Node.js version", "invalid ELF header", "Exec format error"];
    foreign.iter().any(|f| line.contains(f)).then(|| {
        let hint = "install dependencies on the server, or build for its processor and runtime version";
        ("a native part of it is built for another machine or runtime".into(), hint.into())
    })
}

fn port_taken(line: &str, words: &Words<'_>) -> Option<Reason> {
    if !is_taken(line) {
        return None;
    }
    let port = taken_port(std::slice::from_ref(&line.to_owned()));
    let which = port.map_or_else(|| "its port".into(), |port| format!("port {port}"));
    let by = words.holder.map_or_else(String::new, |holder| format!(" by {holder}"));
    let hint = match port.is_some() && port == words.port {
        true => "make it listen once: that port is its own",
        false => "listen on the port in $PORT and on no fixed one",
    };
    Some((format!("{which} is in use already{by}"), hint.into()))
}

fn privileged_port(line: &str, _: &Words<'_>) -> Option<Reason> {
    let (_, rest) = line.split_once("listen EACCES: permission denied ").or_else(|| line.split_once("bind() to "))?;
    let place = rest.split_whitespace().next()?;
    let port = place.rsplit(':').next()?.parse::<u16>().ok().filter(|port| *port < 1024)?;
    let hint = "listen on the port in $PORT: Tako itself has 80 and 443";
    Some((format!("it may not listen on port {port}, which is for root"), hint.into()))
}

fn heap(line: &str, _: &Words<'_>) -> Option<Reason> {
    let known = ["JavaScript heap out of memory", "Fatal JavaScript out of memory", "Reached heap limit"];
    if known.iter().any(|k| line.contains(k)) {
        let hint = "find what it holds on to, or raise `--max-old-space-size` in NODE_OPTIONS";
        return Some(("its JavaScript heap is out of memory".into(), hint.into()));
    }
    let known =
        ["Cannot allocate memory", "ENOMEM", "std::bad_alloc", "memory allocation of ", "runtime: out of memory"];
    known
        .iter()
        .any(|k| line.contains(k))
        .then(|| ("it got no more memory".into(), "give it more memory, or find out what it holds on to".into()))
}

/// A shell or `env` that finds no such program.
fn command(line: &str, _: &Words<'_>) -> Option<Reason> {
    // Where a folder of PATH is closed to the app's user, what is in no folder is denied, too.
    if let Some((said, "")) = line.split_once(": Permission denied") {
        let name = said.rsplit(": ").next()?.trim_matches(['\'', '\u{2018}', '\u{2019}']);
        let of_shell = said.split(": ").any(|part| part == "exec" || part.bytes().all(|b| b.is_ascii_digit()));
        let is_name = !name.contains(['/', ' ']) && (of_shell || said.starts_with("/usr/bin/env: "));
        return is_name.then(|| {
            let hint = format!("install {name} for every user, or correct the name");
            (format!("the program `{name}` is not on the server, or not where the app's user may run it"), hint)
        });
    }
    let of_env = line.strip_prefix("/usr/bin/env: ").or_else(|| line.strip_prefix("env: "));
    let name = match of_env.filter(|rest| rest.contains("No such file or directory")) {
        Some(rest) => quoted(rest)?,
        None => {
            let rest = line.strip_suffix(": command not found").or_else(|| line.strip_suffix(": not found"))?;
            rest.rsplit(": ").next()?.trim()
        }
    };
    if let Some(name) = name.strip_suffix("\\r").or_else(|| name.strip_suffix('\r')) {
        let hint = "save it with Unix line ends (LF), for instance by `dos2unix`";
        return Some((
            format!("its first line ends with a carriage return, so `{name}\\r` is looked for"),
            hint.into(),
        ));
    }
    let hint = format!("install {name} on the server, or correct the name");
    Some((format!("the program `{name}` is not on the server"), hint))
}

/// Another program that it starts.
fn program(line: &str, _: &Words<'_>) -> Option<Reason> {
    let (_, rest) = line.split_once("spawn ")?;
    let name = rest.split_once(" ENOENT")?.0;
    Some((format!("it starts the program `{name}`, which is not there"), format!("install {name} on the server")))
}

/// A variable that must be set.
fn setting(line: &str, words: &Words<'_>) -> Option<Reason> {
    const MISSING: [&str; 9] = [
        "not set",
        "not defined",
        "undefined",
        "required",
        "missing",
        "must be set",
        "must be defined",
        "not provided",
        "unset",
    ];
    let lower = line.to_ascii_lowercase();
    let of_env = lower.contains("env");
    let of_python = lower.starts_with("keyerror: '");
    // A name of the program's own.
    let of_code = line.contains("ReferenceError") || line.contains("Cannot read propert");
    let missing = MISSING.iter().any(|m| lower.contains(m)) || of_env && lower.contains("not found");
    if of_code || !(of_python || missing) {
        return None;
    }
    let is_name = |word: &&str| {
        let of_error = word.starts_with("ERR_") || word.starts_with("SIG") || word.starts_with("MODULE_");
        let formed = word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        // A word in capitals alone may be anything; it is a variable when the line is about the environment.
        formed && !of_error && word.as_bytes()[0].is_ascii_uppercase() && (word.contains('_') || of_python || of_env)
    };
    let name = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find(is_name)?;
    // What it has is not what it lacks.
    if words.given.contains(&name) {
        return None;
    }
    let hint = format!("run `tako secrets set {name}`, or set it under vars in tako.toml, and deploy again");
    Some((format!("the variable {name} is not set"), hint))
}

fn login(line: &str, _: &Words<'_>) -> Option<Reason> {
    let known = [
        "password authentication failed",
        "Access denied for user",
        "WRONGPASS",
        "NOAUTH",
        "Authentication failed",
        "SASL authentication failed",
        "no pg_hba.conf entry",
    ];
    known.iter().any(|k| line.contains(k)).then(|| {
        ("a service that it needs refused its login".into(), "check user and password: `tako secrets ls`".into())
    })
}

fn unreachable(line: &str, _: &Words<'_>) -> Option<Reason> {
    let known = [
        ("ECONNREFUSED", "refused the connection"),
        ("Connection refused", "refused the connection"),
        ("ConnectionRefused", "refused the connection"),
        ("ETIMEDOUT", "did not answer in time"),
        ("ECONNRESET", "closed the connection"),
        ("EHOSTUNREACH", "cannot be reached"),
        ("ENETUNREACH", "cannot be reached"),
    ];
    let (word, what) = known.into_iter().find(|(word, _)| line.contains(word))?;
    let place = address(line.split_once(word)?.1).or_else(|| address(line));
    let place = place.unwrap_or("a service that it needs");
    let service = match place.rsplit(':').next()? {
        "5432" => " (PostgreSQL?)",
        "3306" => " (MySQL?)",
        "6379" => " (Redis?)",
        "27017" => " (MongoDB?)",
        "5672" => " (RabbitMQ?)",
        "9200" => " (Elasticsearch?)",
        _ => "",
    };
    let hint = "check that it runs and that the server may reach it, and the address that the app was given";
    Some((format!("{place}{service} {what}"), hint.into()))
}

fn name_unknown(line: &str, _: &Words<'_>) -> Option<Reason> {
    let known = [
        "getaddrinfo ENOTFOUND",
        "getaddrinfo EAI_AGAIN",
        "queryA ENOTFOUND",
        "Name or service not known",
        "Temporary failure in name resolution",
        "failed to lookup address information",
        "no such host",
    ];
    let (before, after) = known.iter().find_map(|k| line.split_once(k))?;
    let host = after.split_whitespace().next().map(|w| w.trim_matches(['"', '\'', ':', ',']));
    let host = host.filter(|h| h.contains('.') || !h.is_empty() && line.contains("getaddrinfo "));
    let host = host.or_else(|| quoted(before)).unwrap_or("that it connects to");
    let hint = "check its spelling; a name that is known elsewhere (a container's, a VPN's) may not be known here";
    Some((format!("the host name `{host}` is not known"), hint.into()))
}

fn descriptors(line: &str, _: &Words<'_>) -> Option<Reason> {
    let known = ["EMFILE", "ENFILE", "Too many open files", "too many open files"];
    known.iter().any(|k| line.contains(k)).then(|| {
        let hint = "find what it does not close, or raise the limit (`LimitNOFILE` of the server's unit)";
        ("it has too many files or sockets open".into(), hint.into())
    })
}

fn disk(line: &str, _: &Words<'_>) -> Option<Reason> {
    if line.contains("file watchers") {
        let hint = "watch no files in production, or raise fs.inotify.max_user_watches";
        return Some(("it watches more files than the server allows".into(), hint.into()));
    }
    let lower = line.to_ascii_lowercase();
    if lower.contains("enospc") || lower.contains("no space left on device") {
        let hint = "free some space: `df -h` on the server; `tako releases ls` shows what is kept";
        return Some(("the disk is full".into(), hint.into()));
    }
    (lower.contains("erofs") || lower.contains("read-only file system")).then(|| {
        ("it writes where it may only read".into(), "write below $TAKO_DATA_DIR, which is kept between releases".into())
    })
}

fn file(line: &str, words: &Words<'_>) -> Option<Reason> {
    let denied = ["EACCES", "EPERM", "ermission denied", "PermissionDenied", "Operation not permitted"];
    let missing = ["ENOENT", "No such file or directory", "no such file or directory"];
    let of_words =
        || line.split_whitespace().map(|w| w.trim_matches([':', ','])).rfind(|w| w.len() > 1 && w.starts_with('/'));
    let path = quoted(line).filter(|name| name.contains('/')).or_else(of_words);
    let path = path.map(|path| path.strip_prefix(words.dir).unwrap_or(path));
    if denied.iter().any(|d| line.contains(d)) {
        let which = path.map_or_else(|| "something that it needs".into(), |path| format!("`{path}`"));
        let hint = "the app runs as a user of its own: write below $TAKO_DATA_DIR, or give that user the right";
        return Some((format!("it is not allowed to use {which}"), hint.into()));
    }
    if missing.iter().any(|m| line.contains(m)) {
        let which = path.or_else(|| quoted(line)).map_or_else(|| "a file".into(), |path| format!("the file `{path}`"));
        let hint = "check that it is part of the release, or make it; what must last belongs below $TAKO_DATA_DIR";
        return Some((format!("{which} is not there"), hint.into()));
    }
    None
}

fn syntax(line: &str, words: &Words<'_>) -> Option<Reason> {
    let by_name = line.split_once("SyntaxError: ").filter(|(before, _)| {
        let before = before.trim_end();
        before.is_empty() || before.ends_with([':', ')'])
    });
    let by_bun = line.strip_prefix("error: ").filter(|e| e.starts_with("Expected ") || e.starts_with("Unexpected "));
    let error = by_name.map(|(_, error)| error).or(by_bun)?;
    if error.contains("JSON") {
        return Some(("what it read is no JSON".into(), "see where it was read, and what it read".into()));
    }
    if error.contains("import statement outside a module") || error.contains("Unexpected token 'export'") {
        let hint = "put `\"type\": \"module\"` in package.json, or name the file .mjs";
        return Some(("an ES module was loaded as CommonJS".into(), hint.into()));
    }
    // Node tells the place in a line before, others in one after.
    let place = words.lines.iter().rev().take(LOOK).find_map(|line| {
        let place = line.trim().trim_start_matches("at ").trim_start_matches("file://");
        let place = place.strip_prefix(words.dir)?;
        place.split_once(':').is_some_and(|(_, n)| n.starts_with(|c: char| c.is_ascii_digit())).then_some(place)
    });
    let place = place.map_or_else(String::new, |place| format!(" at {place}"));
    let hint = "correct it, or build for this version of the runtime; it was never run before it was deployed";
    Some((format!("a syntax error{place}: {}", error.trim()), hint.into()))
}

fn script(line: &str, _: &Words<'_>) -> Option<Reason> {
    let (_, rest) = line.split_once("Missing script: ").or_else(|| line.split_once("Script not found "))?;
    let name = quoted(rest)?;
    Some((format!("package.json has no script `{name}`"), format!("add the script {name}, or change `start`")))
}
