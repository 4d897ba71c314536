//! The way to a server, over real `sshd` processes: what finds it, what is asked on the way, what goes wrong, and how one
//! connection serves several commands.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::deploy::world;
use crate::sandbox::{Control, Ran, Running, Server, Sshd, TAKO, User, wait_for};

/// A server that the user has not added yet.
fn nearby() -> (Server, Sshd, User) {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    (server, sshd, user)
}

fn add(sshd: &Sshd, more: &[&'static str]) -> Vec<String> {
    let port = sshd.port.to_string();
    let words = ["servers", "add", "127.0.0.1", "--name", "box", "--port", &port];
    words.iter().chain(more).map(ToString::to_string).collect()
}

fn run(user: &User, words: &[String]) -> Ran {
    user.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn must(user: &User, words: &[String]) -> Ran {
    let ran = run(user, words);
    assert_eq!(ran.code, 0, "{ran}");
    ran
}

/// Adds lines to the user's ssh_config, in front of those that are there.
fn configure(sshd: &Sshd, lines: &str) {
    let path = sshd.file("ssh_config");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{lines}{text}")).unwrap();
}

fn fingerprint(sshd: &Sshd, key: &str) -> String {
    let out = Command::new("ssh-keygen").arg("-lf").arg(sshd.file(key)).output().unwrap();
    let line = String::from_utf8(out.stdout).unwrap();
    line.split_whitespace().find(|word| word.starts_with("SHA256:")).expect("a fingerprint").to_string()
}

/// Files of the user's runtime folder besides the sockets of kept connections.
fn left_behind(user: &User) -> Vec<String> {
    let entries = fs::read_dir(user.dir.path().join("tako")).into_iter().flatten().flatten();
    let sockets = |name: &String| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
    entries.map(|e| e.file_name().into_string().unwrap()).filter(|name| !sockets(name)).collect()
}

/// The process that keeps the user's connection.
fn master(user: &User) -> Option<Pid> {
    let mark = format!("ssh: {}/tako/", user.dir.path().display());
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        String::from_utf8_lossy(&line).starts_with(&mark).then(|| Pid::from_raw(pid))?
    })
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

// --- One connection for several commands

#[test]
fn the_next_command_uses_the_connection_of_the_last_and_leaves_nothing_else() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &[]));
    for _ in 0..3 {
        user.must(&["status", "--all"]);
    }
    assert_eq!(sshd.connections(), 1);
    assert_eq!(left_behind(&user), [""; 0]);
    user.must(&["status", "--all", "--no-mux"]);
    assert_eq!(sshd.connections(), 2, "--no-mux has one of its own");
    fs::write(user.home().join("config.toml"), {
        let text = fs::read_to_string(user.home().join("config.toml")).unwrap();
        format!("{text}\n[ssh]\nmux = false\n")
    })
    .unwrap();
    user.must(&["status", "--all"]);
    assert_eq!(sshd.connections(), 3, "so has mux = false");
}

#[test]
fn without_a_kept_connection_nothing_is_left_at_all() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &["--no-mux"]));
    assert_eq!(fs::read_dir(user.dir.path().join("tako")).unwrap().count(), 0);
    assert!(master(&user).is_none());
}

#[test]
fn commands_that_begin_at_once_open_one_connection() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &["--no-check"]));
    let running: Vec<Child> =
        (0..3).map(|_| user.command(&["status", "--all"]).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(sshd.connections(), 1);
    assert_eq!(left_behind(&user), [""; 0]);
}

#[test]
fn more_commands_than_a_connection_has_room_for_have_their_own() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &["--no-check"]));
    let running: Vec<Child> =
        (0..8).map(|_| user.command(&["status", "--all"]).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(left_behind(&user), [""; 0]);
}

#[test]
fn a_kept_connection_that_is_gone_or_hangs_is_replaced() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &[]));
    let socket = || {
        let entry = fs::read_dir(user.dir.path().join("tako")).unwrap().flatten().next().expect("a kept connection");
        entry.path()
    };
    // Killed: its socket stays behind.
    let first = master(&user).expect("a master");
    kill_process(first, Signal::KILL).unwrap();
    wait_for("the master to be gone", || master(&user).is_none().then_some(()));
    assert!(socket().exists());
    user.must(&["status", "--all"]);
    assert_eq!(sshd.connections(), 2);
    // It takes connections and says nothing.
    let second = master(&user).expect("another master");
    kill_process(second, Signal::STOP).unwrap();
    user.must(&["status", "--all"]);
    assert_eq!(sshd.connections(), 3);
    kill_process(second, Signal::KILL).unwrap();
    // Something else has its name.
    let path = socket();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    user.must(&["status", "--all"]);
}

/// A `tako-server ctl` that says hello, and then only notes in `file` that it runs and when its input ends.
fn listener(server: &Server, dir: &Path) -> PathBuf {
    let mut hello = Control::connect(server).unwrap().hello;
    // Its first key is how it is found.
    let first = hello.as_object_mut().unwrap().remove("tako").unwrap();
    let hello = format!("{{\"tako\":{first},{}\n", &hello.to_string()[1..]);
    fs::write(dir.join("hello"), hello).unwrap();
    let notes = dir.join("notes");
    let text = format!(
        "#!/bin/sh\ncat {dir}/hello\nread greeting && read call || exit 0\necho began >> {notes}\ncat > /dev/null\necho ended >> {notes}\n",
        dir = dir.display(),
        notes = notes.display()
    );
    program(&dir.join("tako-server"), &text);
    notes
}

#[test]
fn a_killed_client_ends_its_channel_and_a_killed_master_is_a_lost_connection() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let notes = listener(&server, dir.path());
    let sshd = Sshd::with_programs(&server, dir.path());
    let user = User::new(&sshd);
    must(&user, &add(&sshd, &[]));
    user.use_app("mixed", false);
    let noted = |what: &str, times: usize| {
        wait_for(&format!("{what} {times} times"), || {
            let text = fs::read_to_string(&notes).unwrap_or_default();
            (text.lines().filter(|line| *line == what).count() == times).then_some(())
        });
    };
    let status = || user.command(&["status", "--env", "production"]).stderr(Stdio::piped()).spawn().unwrap();
    fs::write(&notes, "").unwrap();

    let mut child = status();
    noted("began", 1);
    child.kill().unwrap();
    child.wait().unwrap();
    noted("ended", 1);
    assert!(master(&user).is_some(), "the connection lives on");

    let child = status();
    noted("began", 2);
    kill_process(master(&user).expect("a master"), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let ran = Ran::from(&["status"], output);
    ran.assert_failed(6, &["connection was lost"]);
    assert!(sshd.connections() >= 1);
}

#[test]
fn a_deploy_takes_one_connection_and_two_programs_a_server() {
    let (_server, sshd, user) = world();
    let before = sshd.connections();
    let log = user.dir.path().join("started");
    for name in ["ssh", "sftp"] {
        // Which of them only reads the configuration is seen by its option.
        let script =
            "#!/bin/sh\ncase \" $* \" in *' -G '*) echo NAME -G ;; *) echo NAME ;; esac >> LOG\nexec NAME \"$@\"\n";
        let script = script.replace("NAME", name).replace("LOG", &log.display().to_string());
        program(&user.dir.path().join(name), &script);
    }
    let mut deploy = user.command(&["deploy", "--yes", "--no-mux"]);
    deploy.env("TAKO_SSH", user.dir.path().join("ssh")).env("TAKO_SFTP", user.dir.path().join("sftp"));
    let ran = Ran::from(&["deploy"], deploy.output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(sshd.connections() - before, 1);
    let mut started: Vec<String> = fs::read_to_string(&log).unwrap().lines().map(Into::into).collect();
    started.sort();
    let to_choose_a_cipher = if has_aes() { &["ssh -G"][..] } else { &[] };
    assert_eq!(started, [&["sftp", "ssh"][..], to_choose_a_cipher].concat());
}

/// That of the last connection, as the server tells.
fn cipher(sshd: &Sshd) -> String {
    let log = fs::read_to_string(sshd.file("sshd.log")).unwrap();
    let line = log.lines().rfind(|line| line.contains("kex: client->server cipher: ")).expect("a connection");
    line.split("cipher: ").nth(1).unwrap().split(' ').next().unwrap().to_string()
}

#[test]
fn aes_in_hardware_comes_first_where_nobody_has_chosen_a_cipher() {
    let server = Server::start();
    let connect = |lines: &str, config: &str, option: &[&'static str]| {
        let sshd = Sshd::with(&server, &format!("Subsystem sftp internal-sftp\nLogLevel DEBUG1\n{lines}"));
        let user = User::new(&sshd);
        if !config.is_empty() {
            configure(&sshd, &format!("Host *\n  {config}\n"));
        }
        must(&user, &add(&sshd, option));
        // What the server is, is known from now on.
        user.must(&["servers", "status", "--no-mux"]);
        cipher(&sshd)
    };
    let chacha = "chacha20-poly1305@openssh.com";
    assert_eq!(connect("", "", &[]), if has_aes() { "aes128-gcm@openssh.com" } else { chacha });
    assert_eq!(connect("", "Ciphers aes256-ctr", &[]), "aes256-ctr");
    assert_eq!(connect("", "", &["--ssh-option", "Ciphers=chacha20-poly1305@openssh.com"]), chacha);
    assert_eq!(connect(&format!("Ciphers {chacha}"), "", &[]), chacha);
}

/// As `tako` sees it: the server is this machine.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

// --- Ways to a server

#[test]
fn an_alias_of_ssh_config_is_enough() {
    let (_server, sshd, user) = nearby();
    configure(&sshd, &format!("Host fra\n  HostName 127.0.0.1\n  Port {}\n  User root\n", sshd.port));
    user.must(&["servers", "add", "fra"]);
    assert_eq!(sshd.connections(), 1);
}

#[test]
fn options_of_one_server_are_for_it_alone_and_win_over_those_for_all() {
    let (server, sshd, user) = nearby();
    let other = Sshd::start(&server);
    sshd.join(&other);
    fs::create_dir_all(user.home()).unwrap();
    let config = user.home().join("config.toml");
    // Where nothing listens: only what is more special leads anywhere.
    fs::write(&config, "# mine\n[ssh]\noptions = [\"Port=1\", \"User=nobody-at-all\"]\n").unwrap();
    let [one, two] = [&sshd, &other].map(|sshd| format!("Port={}", sshd.port));
    user.run(&["servers", "add", "127.0.0.1", "--name", "one"]).assert_failed(6, &["one", "refused"]);
    for (name, port) in [("one", &one), ("two", &two)] {
        let words = ["servers", "add", "127.0.0.1", "--name", name, "--ssh-option", port, "--ssh-option", "User=root"];
        user.must(&words);
    }
    assert_eq!(
        (sshd.connections(), other.connections()),
        (1, 1),
        "each by its own, and none by the other's connection"
    );
    user.must(&["status", "--all"]);
    assert_eq!((sshd.connections(), other.connections()), (1, 1));
    let shown = user.must(&["servers", "ls"]);
    assert!(shown.out.contains("SSH OPTIONS") && shown.out.contains(&format!("{two}, User=root")), "{shown}");
    let listed = user.result(&["servers", "ls", "--json"]);
    assert_eq!(listed["servers"][0]["ssh_options"], serde_json::json!([one, "User=root"]));
    let checked = user.must(&["servers", "check", "one"]);
    assert!(checked.out.contains(&format!("root@127.0.0.1 port {}", sshd.port)), "{checked}");
    assert!(checked.out.contains(&format!("with {one}, User=root")), "{checked}");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# mine\n[ssh]\n"), "{text}");
    fs::write(&config, text.replace("\"User=root\"", "\"RemoteCommand=id\"")).unwrap();
    user.run(&["servers", "ls"]).assert_failed(3, &["`RemoteCommand=id` is for tako to set", "config.toml:"]);
}

#[test]
fn a_jump_host_is_gone_through_and_named_when_it_fails() {
    let (server, sshd, user) = nearby();
    let mut jump = Sshd::start(&server);
    sshd.join(&jump);
    let way = format!("Host inner\n  HostName 127.0.0.1\n  Port {}\n  ProxyJump 127.0.0.1:{}\n", sshd.port, jump.port);
    // What the `ssh` to the jump host reads is the same file.
    configure(&sshd, &way);
    user.must(&["servers", "add", "inner"]);
    assert_eq!((sshd.connections(), jump.connections()), (1, 1));
    user.must(&["status", "--all"]);
    assert_eq!((sshd.connections(), jump.connections()), (1, 1));
    jump.stop();
    user.run(&["status", "--all"]).assert_failed(6, &["inner", "jump host", "refused"]);
    drop(server);
}

#[test]
fn a_hostile_ssh_config_changes_nothing_on_the_channel() {
    let (_server, sshd, user) = nearby();
    let bad = user.dir.path().join("bad");
    fs::create_dir(&bad).unwrap();
    let at = |name: &str| bad.join(name).display().to_string();
    configure(
        &sshd,
        &format!(
            "RemoteCommand echo pwned\nRequestTTY force\nPermitLocalCommand yes\nLocalCommand touch {local}\n\
             ForwardAgent yes\nForwardX11 yes\nLocalForward 127.0.0.1:1 127.0.0.1:1\nRemoteForward 1 127.0.0.1:1\n\
             DynamicForward 1\nExitOnForwardFailure yes\nSendEnv *\nEscapeChar ~\nVisualHostKey yes\n\
             ControlMaster auto\nControlPath {control}\nControlPersist yes\nCompression yes\nTunnel yes\n\
             BatchMode no\nLogLevel QUIET\nStdinNull yes\nSessionType none\nForkAfterAuthentication yes\n\
             ProxyUseFdpass yes\n",
            local = at("local"),
            control = at("control")
        ),
    );
    must(&user, &add(&sshd, &[]));
    user.must(&["status", "--all", "--no-mux"]);
    assert_eq!(fs::read_dir(&bad).unwrap().count(), 0);
    // Where there is no room for a socket of ours, the user's is not taken either.
    let long = user.dir.path().join("x".repeat(90));
    fs::create_dir(&long).unwrap();
    let mut check = user.command(&["status", "--all"]);
    let ran = Ran::from(&["status", "--all"], check.env("XDG_RUNTIME_DIR", &long).output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(fs::read_dir(&bad).unwrap().count(), 0);
}

#[test]
fn an_ssh_that_lacks_newer_options_is_used_without_them() {
    let (_server, sshd, user) = nearby();
    let old = user.dir.path().join("old-ssh");
    let refuse = "case \"$*\" in *SessionType*) echo 'command-line: line 0: Bad configuration option: sessiontype' >&2; exit 255;; esac";
    program(&old, &format!("#!/bin/sh\n{refuse}\nexec ssh \"$@\"\n"));
    must(&user, &add(&sshd, &["--no-check"]));
    let config = user.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[ssh]\nssh_path = \"{}\"\noptions = [\"ConnectTimeout=20\"]\n", old.display()))
        .unwrap();
    user.must(&["status", "--all"]);
    fs::write(&config, format!("{text}\n[ssh]\nssh_pth = \"x\"\n")).unwrap();
    user.run(&["status", "--all"]).assert_failed(3, &["unknown key `ssh_pth` in [ssh]", "config.toml:", "ssh_path"]);
}

#[test]
fn a_shell_that_prints_is_heard_out_and_one_that_does_other_things_is_named() {
    let (_server, sshd, user) = nearby();
    // Runs before what was asked for and may do anything, as a start-up file does.
    let start_up = sshd.file("start-up");
    program(&start_up, "#!/bin/sh\nexec $SSH_ORIGINAL_COMMAND\n");
    let key = fs::read_to_string(sshd.file("user.pub")).unwrap();
    fs::write(sshd.file("authorized_keys"), format!("command=\"{}\" {key}", start_up.display())).unwrap();
    must(&user, &add(&sshd, &[]));
    let check = |lines: &str| {
        program(&start_up, &format!("#!/bin/sh\n{lines}\nexec $SSH_ORIGINAL_COMMAND\n"));
        user.run(&["status", "--all"])
    };
    let noise = "echo Welcome!; printf '\\001\\377{\"tako\":\\n'; printf 'no line feed'";
    assert_eq!(check(noise).code, 0);
    let noisy = run(&user, &add(&sshd, &[]));
    assert!(noisy.code == 0 && noisy.err.contains("prints"), "{noisy}");
    let words = ["box", "login shell", "start-up files"];
    check("head -c 3000000 /dev/zero | tr '\\0' x").assert_failed(6, &words);
    check("exec cat /etc/passwd").assert_failed(6, &words);
    check("exit 3").assert_failed(6, &["box", "status 3", "start-up file"]);
    check("exec no-such-program-at-all").assert_failed(6, &["not installed"]);
    assert_eq!(check("").code, 0);
    assert_eq!(sshd.connections(), 1, "none of it was the connection's fault");
}

#[test]
fn a_shell_that_does_not_get_to_our_program_is_where_the_check_stops() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &[]));
    let start_up = sshd.file("start-up");
    let key = fs::read_to_string(sshd.file("user.pub")).unwrap();
    fs::write(sshd.file("authorized_keys"), format!("command=\"{}\" {key}", start_up.display())).unwrap();
    // The last one goes on for longer than anybody waits for it.
    for astray in ["exit 3", "exec cat", "exec 1>&-; exec sleep 20"] {
        program(&start_up, &format!("#!/bin/sh\n{astray}\nexec $SSH_ORIGINAL_COMMAND\n"));
        let ran = user.run(&["servers", "check", "box", "--json"]);
        ran.assert_failed(6, &["login shell does not get to tako-server", "such as .bashrc"]);
        assert!(!ran.err.contains("firewall"), "{ran}");
        let steps = ran.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let failed: Vec<serde_json::Value> =
            steps.filter(|event| event["state"] == "failed").map(|event| event["step"].clone()).collect();
        assert_eq!(failed, ["shell"], "{astray}: {ran}");
    }
    // One that prints and goes astray has both said of it.
    program(&start_up, "#!/bin/sh\necho Welcome\nexit 0\n");
    user.run(&["servers", "check", "box"]).assert_failed(6, &["login shell prints other things"]);
}

#[test]
fn a_server_that_went_away_is_told_as_such() {
    let (_server, mut sshd, user) = nearby();
    must(&user, &add(&sshd, &[]));
    sshd.stop();
    user.run(&["status", "--all"]).assert_failed(6, &["box", "refused", "sshd"]);
    assert_eq!(left_behind(&user), [""; 0]);
}

#[test]
fn a_login_that_fails_tells_which_keys_were_tried() {
    let (_server, sshd, user) = nearby();
    fs::write(sshd.file("authorized_keys"), "").unwrap();
    run(&user, &add(&sshd, &[])).assert_failed(6, &["box", "tried", "SHA256:", "agent"]);
    must(&user, &add(&sshd, &["--no-check"]));
    let tried = format!("tried {} ED25519 {}, as root", sshd.file("user").display(), fingerprint(&sshd, "user.pub"));
    let words = [&tried, "no agent was asked", "the server lets in by publickey", "user.pub in ~/.ssh/authorized_keys"];
    let ran = user.run(&["servers", "check", "box"]);
    ran.assert_failed(6, &words);
    let key = fs::read_to_string(sshd.file("user.pub")).unwrap();
    assert!(!ran.err.contains("debug1") && !ran.err.contains(key.split(' ').nth(1).unwrap()), "{ran}");
    let ran = user.run(&["servers", "check", "box", "--json"]);
    let mut events = ran.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let result = events.find(|event| event["event"] == "result").unwrap_or_else(|| panic!("{ran}"));
    let detail = result["servers"][0]["detail"].as_array().unwrap();
    assert!(detail.iter().any(|line| line == tried.as_str()), "{result}");
}

// --- Host keys

#[test]
fn a_changed_host_key_stops_with_both_fingerprints() {
    let (_server, sshd, user) = nearby();
    must(&user, &add(&sshd, &["--no-check"]));
    sshd.know(&fs::read_to_string(sshd.file("user.pub")).unwrap());
    let before = fs::read_to_string(sshd.file("known_hosts")).unwrap();
    let keys = [fingerprint(&sshd, "host.pub"), fingerprint(&sshd, "user.pub")];
    let ran = user.run(&["status", "--all"]);
    ran.assert_failed(6, &["has changed", &format!("offered    ED25519 {}", keys[0]), &keys[1]]);
    assert_eq!(fs::read_to_string(sshd.file("known_hosts")).unwrap(), before, "nothing is repaired by itself");
}

#[test]
fn an_unknown_host_key_without_a_terminal_needs_a_flag() {
    let (_server, sshd, user) = nearby();
    configure(&sshd, "StrictHostKeyChecking ask\n");
    sshd.know("");
    let right = fingerprint(&sshd, "host.pub");
    let wrong = fingerprint(&sshd, "user.pub");
    run(&user, &add(&sshd, &[])).assert_failed(6, &["not known", &right, "--fingerprint"]);
    let pinned = |key: &str| run(&user, &[add(&sshd, &["--fingerprint"]), vec![key.into()]].concat());
    pinned(&wrong).assert_failed(6, &["not the expected one", &right, &wrong]);
    pinned("SHA256:short").assert_failed(2, &["not the fingerprint"]);
    assert_eq!(fs::read_to_string(sshd.file("known_hosts")).unwrap().lines().count(), 1, "only what the test wrote");
    let ran = pinned(&right);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(fs::read_to_string(sshd.file("known_hosts")).unwrap().contains("ssh-ed25519"));
    // Now it is known; what is pinned is looked at all the same.
    pinned(&wrong).assert_failed(6, &["not the expected one", &right, &wrong]);
    assert_eq!(pinned(&right).code, 0);
}

/// A server `inner` behind a jump host, both of which nobody knows yet.
fn behind_a_jump_host() -> (Server, [Sshd; 2], User, [String; 2]) {
    let (server, sshd, user) = nearby();
    let jump = Sshd::start(&server);
    sshd.join(&jump);
    let way = format!("Host inner\n  HostName 127.0.0.1\n  Port {}\n  ProxyJump 127.0.0.1:{}\n", sshd.port, jump.port);
    configure(&sshd, &format!("StrictHostKeyChecking ask\n{way}"));
    fs::write(sshd.known_hosts(), "").unwrap();
    let keys = [fingerprint(&sshd, "host.pub"), fingerprint(&jump, "host.pub")];
    (server, [sshd, jump], user, keys)
}

#[test]
fn what_is_pinned_is_the_servers_key_and_not_that_of_a_jump_host() {
    let (_server, [sshd, jump], user, [right, of_jump]) = behind_a_jump_host();
    let known = || fs::read_to_string(sshd.known_hosts()).unwrap();
    let pinned = |key: &str| user.run(&["servers", "add", "inner", "--fingerprint", key]);
    let whose =
        format!("inner: the host key of [127.0.0.1]:{}, which the way there leads through, is not known", jump.port);
    let login = format!("`ssh -p {} 127.0.0.1`", jump.port);
    // Neither is the jump host let pass by its own key where the server's is meant, nor is it taken for the server.
    for ran in [pinned(&right), pinned(&of_jump), user.run(&["servers", "add", "inner"])] {
        ran.assert_failed(6, &[&whose, &of_jump, &login]);
        assert!(!ran.err.contains("expected"), "{ran}");
    }
    assert_eq!(known(), "");
    let key = fs::read_to_string(jump.file("host.pub")).unwrap();
    let of_the_way = format!("[127.0.0.1]:{} {key}", jump.port);
    fs::write(sshd.known_hosts(), &of_the_way).unwrap();
    pinned(&of_jump).assert_failed(6, &["inner: its host key is not the expected one", &right, &of_jump]);
    assert_eq!(known(), of_the_way);
    let ran = pinned(&right);
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(known().lines().count(), 2, "{}", known());
    // A program that starts ssh, and does not become it, is not taken for a jump host.
    let wrapper = user.dir.path().join("wrapper");
    program(&wrapper, "#!/bin/sh\nssh \"$@\"\nexit $?\n");
    fs::write(sshd.known_hosts(), "").unwrap();
    let words = add(&sshd, &["--fingerprint"]);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([right.as_str()]).collect();
    let ran = Ran::from(&words, user.command(&words).env("TAKO_SSH", &wrapper).output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
}

#[test]
fn a_new_host_key_is_accepted_on_request_and_a_changed_one_never() {
    let (_server, sshd, user) = nearby();
    sshd.know("");
    must(&user, &add(&sshd, &["--accept-new"]));
    sshd.know(&fs::read_to_string(sshd.file("user.pub")).unwrap());
    run(&user, &add(&sshd, &["--accept-new"])).assert_failed(6, &["has changed"]);
}

// --- Questions, on a terminal

/// `tako` on a pseudo-terminal, typed at.
struct Terminal {
    child: Running,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(user: &User, words: &[String]) -> Terminal {
        let line = std::iter::once(TAKO.to_string()).chain(words.iter().cloned()).collect::<Vec<_>>().join(" ");
        let plain = user.command(&[]);
        // From util-linux, which every Debian has: the terminal is its business.
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(user.project());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Running(command.spawn().expect("script is installed"));
        let keys = child.0.stdin.take().unwrap();
        let mut out = child.0.stdout.take().unwrap();
        let (tell, shown) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut bytes) {
                if tell.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keys, shown, seen: String::new() }
    }

    /// Waits until `words` are on the screen that were not before.
    fn expect(&mut self, words: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.seen.find(words) {
                self.seen.drain(..at + words.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(e) => panic!("no {words:?} ({e}) in:\n{}", self.seen),
            }
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Its exit code, and the rest of what it said.
    fn end(mut self) -> (i32, String) {
        while let Ok(bytes) = self.shown.recv_timeout(Duration::from_secs(30)) {
            self.seen += &String::from_utf8_lossy(&bytes);
        }
        let status = wait_for("the terminal to close", || self.child.0.try_wait().unwrap());
        (status.code().unwrap_or(-1), self.seen)
    }
}

#[test]
fn first_contact_on_a_terminal_shows_the_key_and_waits_for_a_person() {
    let (_server, sshd, user) = nearby();
    configure(&sshd, "StrictHostKeyChecking ask\n");
    let (right, wrong) = (fingerprint(&sshd, "host.pub"), fingerprint(&sshd, "user.pub"));
    let known = || fs::read_to_string(sshd.file("known_hosts")).unwrap().contains("ssh-ed25519");
    let asked = |answer: &str| {
        sshd.know("");
        let mut terminal = Terminal::start(&user, &add(&sshd, &[]));
        terminal.expect("box (");
        terminal.expect("is new.");
        terminal.expect(&format!("ED25519  {right}"));
        terminal.expect("[y/N/paste fingerprint]");
        terminal.type_in(answer);
        terminal.end()
    };
    let (code, said) = asked("\r");
    assert!(code == 6 && said.contains("was not accepted") && !known(), "{code}: {said}");
    let (code, said) = asked("no\r");
    assert!(code == 6 && said.contains("was not accepted") && !known(), "{code}: {said}");
    let (code, said) = asked(&format!("{wrong}\r"));
    assert!(code == 6 && said.contains("not the expected one") && said.contains(&right) && !known(), "{code}: {said}");
    let (code, said) = asked("\x03");
    assert!(code == 130 && !known(), "{code}: {said}");
    let (code, said) = asked(&format!("{right}\r"));
    assert!(code == 0 && said.contains("box added") && known(), "{code}: {said}");
    wait_for("the kept connection to be the only thing left", || left_behind(&user).is_empty().then_some(()));

    // The connection that stands would be used.
    kill_process(master(&user).expect("a master"), Signal::KILL).unwrap();
    let (code, said) = asked("y\r");
    assert!(code == 0 && said.contains("box is known already") && known(), "{code}: {said}");
}

#[test]
fn a_jump_host_that_is_new_is_a_question_of_its_own() {
    let (_server, [sshd, jump], user, [right, of_jump]) = behind_a_jump_host();
    let known = || fs::read_to_string(sshd.known_hosts()).unwrap().lines().count();
    let asked = |answer: &str| {
        let words = ["servers", "add", "inner", "--fingerprint", &right].map(Into::into);
        let mut terminal = Terminal::start(&user, &words);
        terminal.expect(&format!("inner is reached by way of [127.0.0.1]:{}, which is new.", jump.port));
        terminal.expect(&format!("ED25519  {of_jump}"));
        terminal.expect("[y/N/paste fingerprint]");
        terminal.type_in(answer);
        terminal.end()
    };
    let (code, said) = asked("\r");
    assert!(code == 6 && said.contains("was not accepted") && known() == 0, "{code}: {said}");
    let (code, said) = asked(&format!("{right}\r"));
    assert!(code == 6 && said.contains("is not the expected one") && known() == 0, "{code}: {said}");
    let (code, said) = asked(&format!("{of_jump}\r"));
    assert!(code == 0 && said.contains("inner added") && known() == 2, "{code}: {said}");
    assert!(!said.contains("is new"), "the server's own key was said beforehand: {said}");
}

#[test]
fn an_ssh_that_cannot_ask_through_us_asks_nothing_and_is_named() {
    let (_server, sshd, user) = nearby();
    configure(&sshd, "StrictHostKeyChecking ask\n");
    let known = fs::read_to_string(sshd.known_hosts()).unwrap();
    let right = fingerprint(&sshd, "host.pub");
    let (old, log) = (user.dir.path().join("old-ssh"), user.dir.path().join("asked-for"));
    fs::create_dir_all(user.home()).unwrap();
    fs::write(user.home().join("config.toml"), format!("[ssh]\nssh_path = \"{}\"\n", old.display())).unwrap();
    for version in ["OpenSSH_7.9p1 Debian-10+deb10u4, OpenSSL 1.1.1n  15 Mar 2022", "Dropbear v2022.83"] {
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = -V ]; then echo '{version}' >&2; exit 0; fi\nunset SSH_ASKPASS_REQUIRE\n\
             echo \"$*\" >> {}\nexec ssh \"$@\"\n",
            log.display()
        );
        program(&old, &text);
        let on_a_terminal = |more: &[&str]| {
            let words = [add(&sshd, &[]), more.iter().map(ToString::to_string).collect()].concat();
            Terminal::start(&user, &words).end()
        };
        fs::write(sshd.known_hosts(), "").unwrap();
        for more in [&[][..], &["--fingerprint", &right]] {
            let (code, said) = on_a_terminal(more);
            assert!(code == 6 && said.contains("its host key is not known here"), "{code}: {said}");
            assert!(said.contains("older than OpenSSH 8.4") && !said.contains("is new."), "{said}");
        }
        fs::write(sshd.known_hosts(), &known).unwrap();
        let (code, said) = on_a_terminal(&["--fingerprint", &right]);
        assert_eq!(code, 0, "{said}");
    }
    let asked_for = fs::read_to_string(&log).unwrap();
    assert!(asked_for.lines().count() >= 6, "{asked_for}");
    assert!(
        asked_for.lines().all(|line| line.contains("BatchMode=yes") && !line.contains("BatchMode=no")),
        "{asked_for}"
    );
}

#[test]
fn a_passphrase_is_asked_for_hidden_and_again_when_it_was_wrong() {
    const PASSPHRASE: &str = "tr0ub4dor-and-3";
    let (_server, sshd, user) = nearby();
    let locked = sshd.file("user");
    let changed =
        Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", PASSPHRASE, "-f"]).arg(&locked).status().unwrap();
    assert!(changed.success());

    let mut terminal = Terminal::start(&user, &add(&sshd, &["--verbose"]));
    terminal.expect("box: passphrase for key");
    terminal.expect("(not shown):");
    terminal.type_in("wrong\r");
    terminal.expect("that was not it");
    terminal.expect("(not shown):");
    terminal.type_in(&format!("{PASSPHRASE}\r"));
    let (code, said) = terminal.end();
    assert!(code == 0 && said.contains("box added") && !said.contains(PASSPHRASE), "{code}: {said}");

    // Nothing is asked for on a connection that stands.
    let (code, said) = Terminal::start(&user, &["status".into(), "--all".into()]).end();
    assert!(code == 0 && !said.contains("passphrase"), "{code}: {said}");

    let check: Vec<String> = ["status", "--all", "--no-mux"].map(Into::into).into();
    let mut terminal = Terminal::start(&user, &check);
    terminal.expect("(not shown):");
    terminal.type_in("\x03");
    let (code, said) = terminal.end();
    assert!(code == 130 && said.contains("interrupted"), "{code}: {said}");

    // Without somebody to ask nothing waits.
    user.run(&["status", "--all", "--no-mux"]).assert_failed(6, &["passphrase"]);
    let found = Command::new("grep").args(["-rlaF", PASSPHRASE]).arg(user.dir.path()).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&found), "");
    assert_eq!(left_behind(&user), [""; 0]);
}

#[test]
fn two_servers_ask_one_after_the_other() {
    let (server, sshd, user) = nearby();
    let other = Sshd::start(&server);
    configure(&sshd, "StrictHostKeyChecking ask\n");
    for (sshd, name) in [(&sshd, "one"), (&other, "two")] {
        let port = sshd.port.to_string();
        user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &port, "--no-check"]);
    }
    sshd.join(&other);
    fs::write(sshd.file("known_hosts"), "").unwrap();
    let mut terminal = Terminal::start(&user, &["status".into(), "--all".into()]);
    for _ in 0..2 {
        terminal.expect("is new.");
        terminal.expect("[y/N/paste fingerprint]");
        assert!(!terminal.seen.contains("is new."), "one question at a time: {}", terminal.seen);
        terminal.type_in("y\r");
    }
    let (code, said) = terminal.end();
    assert_eq!(code, 0, "{said}");
    assert_eq!((sshd.connections(), other.connections()), (1, 1));
}
