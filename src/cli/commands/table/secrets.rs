//! The rows of `tako secrets`: the largest group there is. Like the table, it says what exists and does nothing.

use super::{ENV, ENV_ANY, switch, value};
use crate::cli::args::{Arg, Command, Does, Flag, Takes};
use crate::cli::commands::secrets;

pub(super) const SECRETS: Command = Command {
    name: "secrets",
    aliases: &["secret"],
    about: "encrypted values that the app gets at start",
    args: &[],
    flags: &[],
    examples: &[("tako secrets set API_KEY", "asks for the value"), ("tako secrets ls", "what is set where")],
    hidden: false,
    does: Does::Group(&[
        Command {
            name: "set",
            aliases: &[],
            about: "set a secret of an environment; the value is never an argument",
            args: &[
                Arg { name: "NAME", required: true, help: "capital letters, digits and `_`" },
                Arg { name: "-", required: false, help: "read the value from standard input" },
            ],
            flags: &[ENV],
            examples: &[
                ("tako secrets set API_KEY", "asks for the value, without showing it"),
                ("tako secrets set API_KEY - < key.txt", "from a file"),
                ("tako secrets set API_KEY --env staging", "for another environment"),
            ],
            hidden: false,
            does: Does::Run(secrets::set),
        },
        Command {
            name: "import",
            aliases: &[],
            about: "set several secrets at once from a dotenv file, all of them or none",
            args: &[Arg { name: "FILE", required: false, help: "lines of NAME=value; `-` is standard input" }],
            flags: &[ENV],
            examples: &[
                ("tako secrets import .env.production", "what is in a file"),
                ("tako secrets import --env staging - < .env.staging", "from standard input"),
            ],
            hidden: false,
            does: Does::Run(secrets::import::run),
        },
        Command {
            name: "rm",
            aliases: &["remove"],
            about: "remove a secret from an environment",
            args: &[Arg { name: "NAME", required: true, help: "as shown by `tako secrets ls`" }],
            flags: &[ENV],
            examples: &[("tako secrets rm API_KEY --env staging", "from one environment")],
            hidden: false,
            does: Does::Run(secrets::rm),
        },
        Command {
            name: "ls",
            aliases: &["list"],
            about: "which secrets are set in which environment; never their values",
            args: &[],
            flags: &[ENV_ANY],
            examples: &[("tako secrets ls", "all environments"), ("tako secrets ls --json", "for a program")],
            hidden: false,
            does: Does::Run(secrets::ls),
        },
        Command {
            name: "sync",
            aliases: &[],
            about: "send the secrets to the servers without a deploy; instances are replaced where something changed",
            args: &[],
            flags: &[ENV, value("server", "NAME", "only this server; may be repeated")],
            examples: &[
                ("tako secrets sync", "after `tako secrets set`"),
                ("tako secrets sync --env staging --server fra1", "one server of another environment"),
            ],
            hidden: false,
            does: Does::Run(secrets::sync::run),
        },
        Command {
            name: "key",
            aliases: &["keys"],
            about: "the key that opens an environment's secrets, for a colleague or for CI",
            args: &[],
            flags: &[],
            examples: &[
                ("tako secrets key export | gh secret set TAKO_SECRETS_KEY_PRODUCTION", "to CI"),
                ("tako secrets key import", "from a colleague"),
            ],
            hidden: false,
            does: Does::Group(&[
                Command {
                    name: "export",
                    aliases: &[],
                    about: "print the key, into a pipe or a file",
                    args: &[],
                    flags: &[ENV, switch("show", "also onto a screen")],
                    examples: &[
                        ("tako secrets key export | gh secret set TAKO_SECRETS_KEY_PRODUCTION", "to GitHub Actions"),
                        ("tako secrets key export --env staging --show", "to read it"),
                    ],
                    hidden: false,
                    does: Does::Run(secrets::key::export),
                },
                Command {
                    name: "import",
                    aliases: &[],
                    about: "keep a key on this machine, once it opens the secrets",
                    args: &[Arg { name: "-", required: false, help: "read the key from standard input" }],
                    flags: &[
                        ENV,
                        Flag {
                            name: "yes",
                            short: Some('y'),
                            takes: Takes::Nothing,
                            help: "replace another key that is here",
                        },
                    ],
                    examples: &[
                        ("tako secrets key import", "asks for the key, without showing it"),
                        ("tako secrets key import --env staging - < key", "from a file"),
                    ],
                    hidden: false,
                    does: Does::Run(secrets::key::import),
                },
            ]),
        },
    ]),
};
