//! The command table: every command, what it takes and what it says of itself. It feeds the parser, the help texts
//! and did-you-mean; nothing else names a command.

pub(crate) mod elsewhere;
mod secrets;

use super::{init, servers, version};
use crate::cli::args::{Arg, Command, Does, Flag, Takes};
use crate::cli::help;

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "init",
        aliases: &[],
        about: "write a tako.toml for this project",
        args: &[],
        flags: &[
            value("name", "NAME", "name of the app; the directory's name by default"),
            value("route", "ROUTE", "where production answers, such as app.example.com"),
            value("runtime", "RUNTIME", "bun, node, deno or binary; detected by default"),
            value("preset", "NAME", "such as nextjs; by the app's dependencies by default"),
            value("main", "FILE", "the file to run; detected by default"),
            value("server", "NAME", "where production runs, as named by `tako servers add`; may be repeated"),
            switch("force", "replace a tako.toml that is there"),
            Flag {
                name: "yes",
                short: Some('y'),
                takes: Takes::Nothing,
                help: "take what was detected without asking",
            },
        ],
        examples: &[
            ("tako init", "ask for what cannot be detected"),
            ("tako init --route app.example.com", "ask nothing"),
            ("tako init --dir apps/web", "an app of a monorepo"),
        ],
        hidden: false,
        does: Does::Run(init::run),
    },
    Command {
        name: "config",
        aliases: &[],
        about: "the configuration in effect, and where each value came from",
        args: &[],
        flags: &[ENV, value("server", "NAME", "also what this server gets; may be repeated")],
        examples: &[
            ("tako config", "of production, as a tako.toml that says everything"),
            ("tako config --env staging", "of another environment"),
            ("tako config --json", "for a program"),
        ],
        hidden: false,
        does: Does::Run(super::config::run),
    },
    Command {
        name: "deploy",
        aliases: &[],
        about: "build this project and put it live, without dropping a request",
        args: &[],
        flags: &[
            ENV,
            value("server", "NAME", "only this server of the environment; may be repeated"),
            switch("dry-run", "tell what it would do, and change nothing anywhere"),
            switch("force", "roll the instances also where all of it is live already"),
            value("wait", "TIME", "while somebody else deploys, wait for so long: 90s, 5m or 1h"),
            switch("attach", "join the deploy that is under way, or hear how the last one ended"),
            NO_CACHE,
            UPDATE_PRESET,
            YES,
        ],
        examples: &[
            ("tako deploy", "ship to production"),
            ("tako deploy --env staging --dry-run", "what would change in another environment"),
            ("tako deploy --attach", "after Ctrl-C, a lost connection, or from another machine"),
        ],
        hidden: false,
        does: Does::Run(super::deploy::run),
    },
    Command {
        name: "rehearse",
        aliases: &[],
        about: "the whole deploy on this machine, against a private server that needs no root and no ssh",
        args: &[],
        flags: &[
            ENV,
            switch("traffic", "send steady requests while a second version is deployed, and count the failures"),
            switch("keep", "keep serving until Ctrl-C"),
            NO_CACHE,
            UPDATE_PRESET,
        ],
        examples: &[
            ("tako rehearse", "does it build, start and answer?"),
            ("tako rehearse --traffic", "is any request dropped by a deploy?"),
        ],
        hidden: false,
        does: Does::Run(super::rehearse::run),
    },
    Command {
        name: "status",
        aliases: &[],
        about: "what runs where, and what it takes",
        args: &[],
        flags: &[
            ENV_ANY,
            value("server", "NAME", "only this server; may be repeated"),
            switch("all", "every app on the servers you know, as it is where there is no tako.toml"),
            switch("instances", "each instance in a line of its own"),
        ],
        examples: &[
            ("tako status", "every environment of this project"),
            ("tako status --env staging --instances", "also each instance: process, port, age, CPU and memory"),
            ("tako status --all --server fra1 --json", "all that is on one server, for a program"),
        ],
        hidden: false,
        does: Does::Run(super::status::run),
    },
    Command {
        name: "logs",
        aliases: &[],
        about: "what the app printed",
        args: &[],
        flags: &[
            ENV,
            Flag { name: "tail", short: Some('f'), takes: Takes::Nothing, help: "go on until Ctrl-C" },
            value("lines", "N", "the last N lines of all servers that match; by default 100, or all of the time given"),
            value("since", "TIME", "not before: 90s, 30m, 2h or 3d ago, or a time such as 2026-11-22T07:30"),
            value("until", "TIME", "not after"),
            value("days", "N", "not older than N days"),
            value("grep", "TEXT", "only lines that hold TEXT, literally"),
            Flag {
                name: "ignore-case",
                short: Some('i'),
                takes: Takes::Nothing,
                help: "--grep in upper or lower case",
            },
            value("release", "ID", "only of this release; its first characters do"),
            value("instance", "N", "only of the instance with this number"),
            switch("err", "only what went to standard error; with --access, answers of 500 and above"),
            switch("access", "the requests that were led to the app, instead of what it printed"),
            switch("no-pager", "do not page on a terminal; an empty PAGER says the same"),
            value("server", "NAME", "only this server; may be repeated"),
        ],
        examples: &[
            ("tako logs", "the last lines of all servers, in order of time"),
            ("tako logs --tail --access", "follow the requests"),
            ("tako logs --since 2h --grep timeout", "what was said of a timeout in the last two hours"),
        ],
        hidden: false,
        does: Does::Run(super::logs::run),
    },
    Command {
        name: "releases",
        aliases: &[],
        about: "earlier versions on the servers, and the way back",
        args: &[],
        flags: &[],
        examples: &[("tako releases ls", "what is there"), ("tako releases rollback", "back to the last good one")],
        hidden: false,
        does: Does::Group(&[
            Command {
                name: "ls",
                aliases: &["list"],
                about: "the releases on each server, newest first",
                args: &[],
                flags: &[ENV],
                examples: &[("tako releases ls", "of production"), ("tako releases ls --env staging", "of another")],
                hidden: false,
                does: Does::Run(super::releases::ls),
            },
            Command {
                name: "rollback",
                aliases: &[],
                about: "put an earlier release live again",
                args: &[Arg { name: "ID", required: false, help: "the release; the last good one by default" }],
                flags: &[ENV, value("server", "NAME", "only this server; may be repeated"), YES_TO_NOTHING],
                examples: &[
                    ("tako releases rollback", "the last good one"),
                    ("tako releases rollback 4f2c9ab", "this one"),
                ],
                hidden: false,
                does: Does::Run(super::releases::rollback),
            },
        ]),
    },
    Command {
        name: "scale",
        aliases: &[],
        about: "change how many instances run on each server",
        args: &[Arg { name: "N", required: true, help: "0 to 64; 0 starts the app on its first request" }],
        flags: &[ENV, value("server", "NAME", "only this server; may be repeated")],
        examples: &[("tako scale 4", "four on each server"), ("tako scale 0 --env staging", "only on demand")],
        hidden: false,
        does: Does::Run(super::scale::run),
    },
    Command {
        name: "run",
        aliases: &[],
        about: "run a command in the live release, with its variables and secrets, as its user",
        args: &[Arg {
            name: "COMMAND...",
            required: true,
            help: "the program and its arguments, which are not read here; for more than one: sh -c '…'",
        }],
        flags: &[
            ENV,
            value("server", "NAME", "on this server; the first of the environment by default"),
            value("release", "ID", "in this release; its first characters do; the live one by default"),
            Flag {
                name: "interactive",
                short: Some('i'),
                takes: Takes::Nothing,
                help: "give it what is typed here; what is piped in it always gets",
            },
            Flag {
                name: "tty",
                short: Some('t'),
                takes: Takes::Nothing,
                help: "give it a terminal, as shells and editors need",
            },
        ],
        examples: &[
            ("tako run -it sh", "look around in the release"),
            ("tako run node scripts/report.js > report.csv", "its output and its exit code become ours"),
            ("tako run --env staging psql < dump.sql", "what is piped in is its input"),
        ],
        hidden: false,
        does: Does::Run(super::run::run),
    },
    Command {
        name: "delete",
        aliases: &[],
        about: "stop the app and remove all of it from the servers",
        args: &[],
        flags: &[ENV, value("confirm", "APPNAME", "the app's name, instead of typing it when asked")],
        examples: &[
            ("tako delete", "asks for the app's name first"),
            ("tako delete --env staging --confirm my-app", "from a script"),
        ],
        hidden: false,
        does: Does::Run(super::delete::run),
    },
    Command {
        name: "servers",
        aliases: &["server"],
        about: "the servers you can deploy to",
        args: &[],
        flags: &[],
        examples: &[("tako servers add fra1.example.com", "make one known"), ("tako servers ls", "those you have")],
        hidden: false,
        does: Does::Group(&[
            Command {
                name: "add",
                aliases: &[],
                about: "make a server known, after a look at it",
                args: &[Arg {
                    name: "HOST",
                    required: false,
                    help: "a host name, an address or an alias of your ssh_config, also as user@host; without it, asks",
                }],
                flags: &[
                    value("name", "NAME", "what to call it; the first part of HOST by default"),
                    value("user", "USER", "the user to log in as; ssh decides by default"),
                    value("port", "PORT", "the port of sshd; ssh decides by default"),
                    value("description", "TEXT", "a note for yourself"),
                    value("target", "TARGET", "such as linux-x86_64-glibc; asked of the server by default"),
                    value(
                        "ssh-option",
                        "OPTION",
                        "for ssh, such as ConnectTimeout=30 or \"-J bastion\"; may be repeated",
                    ),
                    value(
                        "fingerprint",
                        "SHA256",
                        "the only host key to accept, such as SHA256:Ab12…; what to give in a script",
                    ),
                    switch("accept-new", "accept the host key of a server that is not known yet, whatever it is"),
                    switch("no-check", "do not connect to it now"),
                ],
                examples: &[
                    ("tako servers add", "asks for host, name, user and port"),
                    ("tako servers add fra1.example.com", "as fra1"),
                    ("tako servers add deploy@203.0.113.7 --name fra1", "by address and user"),
                ],
                hidden: false,
                does: Does::Run(servers::add),
            },
            Command {
                name: "rm",
                aliases: &["remove"],
                about: "forget a server; nothing on it changes",
                args: &[Arg { name: "NAME", required: true, help: "as shown by `tako servers ls`" }],
                flags: &[YES],
                examples: &[("tako servers rm fra1", "asks first"), ("tako servers rm fra1 --yes", "from a script")],
                hidden: false,
                does: Does::Run(servers::rm),
            },
            Command {
                name: "ls",
                aliases: &["list"],
                about: "the servers you have",
                args: &[],
                flags: &[],
                examples: &[("tako servers ls", "as a table"), ("tako servers ls --json", "for a program")],
                hidden: false,
                does: Does::Run(servers::ls),
            },
            Command {
                name: "check",
                aliases: &[],
                about: "walk the way to a server step by step, and say what is wrong, if anything",
                args: &[Arg { name: "NAME", required: false, help: "one server; all of them by default, a line each" }],
                flags: &[],
                examples: &[
                    ("tako servers check fra1", "from its name to the addresses of its proxy"),
                    ("tako servers check", "all of them at once"),
                ],
                hidden: false,
                does: Does::Run(servers::check::run),
            },
            Command {
                name: "status",
                aliases: &[],
                about: "how the servers are: version, uptime, apps, room, certificates",
                args: &[Arg { name: "NAME", required: false, help: "one server; all of them by default" }],
                flags: &[],
                examples: &[
                    ("tako servers status", "all of them"),
                    ("tako servers status fra1 --json", "for a program"),
                ],
                hidden: false,
                does: Does::Run(servers::status::run),
            },
        ]),
    },
    secrets::SECRETS,
    Command {
        name: "version",
        aliases: &[],
        about: "the version of this program",
        args: &[],
        flags: &[],
        examples: &[("tako version", "also `tako --version`"), ("tako version --json", "for a program")],
        hidden: false,
        does: Does::Run(version::run),
    },
    Command {
        name: "help",
        aliases: &[],
        about: "this text, or that of a command",
        args: &[
            Arg { name: "COMMAND", required: false, help: "such as deploy" },
            Arg { name: "VERB", required: false, help: "such as add, after servers" },
            Arg { name: "VERB", required: false, help: "such as export, after secrets key" },
        ],
        flags: &[],
        examples: &[
            ("tako help deploy", "also `tako deploy --help`"),
            ("tako help servers add", "a command of a group"),
        ],
        hidden: false,
        does: Does::Run(help::run),
    },
];

/// Allowed with every command, before or after it.
pub(crate) const GLOBAL_FLAGS: &[Flag] = &[
    Flag {
        name: "dir",
        short: Some('C'),
        takes: Takes::Value("DIR"),
        help: "the project's directory, instead of this one",
    },
    Flag { name: "json", short: None, takes: Takes::Nothing, help: "one JSON event a line on standard output" },
    Flag { name: "verbose", short: Some('v'), takes: Takes::Nothing, help: "also what is run and how long it takes" },
    Flag { name: "quiet", short: Some('q'), takes: Takes::Nothing, help: "only results and errors" },
    Flag {
        name: "color",
        short: None,
        takes: Takes::OneOf(&["auto", "always", "never"]),
        help: "auto is: on a terminal, unless NO_COLOR is set",
    },
    Flag { name: "no-input", short: None, takes: Takes::Nothing, help: "never ask; fail naming the flag to give" },
    Flag {
        name: "no-mux",
        short: None,
        takes: Takes::Nothing,
        help: "an SSH connection of its own, which ends with the command",
    },
    Flag { name: "help", short: Some('h'), takes: Takes::Nothing, help: "examples and flags" },
    Flag { name: "version", short: Some('V'), takes: Takes::Nothing, help: "the version of this program" },
];

const ENV: Flag = value("env", "NAME", "the environment; production by default");
const UPDATE_PRESET: Flag =
    switch("update-preset", "take the preset as it is now, instead of the one in .tako/build.lock.json");
const ENV_ANY: Flag = value("env", "NAME", "only this environment");
const NO_CACHE: Flag = switch("no-cache", "build and install packages again, also when nothing changed since");
const YES: Flag =
    Flag { name: "yes", short: Some('y'), takes: Takes::Nothing, help: "answer yes to questions of yes or no" };
/// Of a command that asked once: scripts that give it go on.
const YES_TO_NOTHING: Flag = Flag { help: "nothing is asked; accepted for scripts that give it", ..YES };

const fn value(name: &'static str, what: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Value(what), help }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Nothing, help }
}
