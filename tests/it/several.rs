//! Several servers at once: what one of them does not answer is said of it, and the others are told as ever.

use std::net::TcpListener;

use serde_json::Value;

use crate::http::Client;
use crate::sandbox::{HOST, Ran, Running, Server, Sshd, User, wait_for};

/// Two servers of one environment, and their user, who has deployed to both.
struct Fleet {
    servers: [Server; 2],
    sshds: [Sshd; 2],
    user: User,
}

impl Fleet {
    fn new() -> Fleet {
        let servers = [Server::start(), Server::start()];
        let sshds = [Sshd::start(&servers[0]), Sshd::start(&servers[1])];
        sshds[0].join(&sshds[1]);
        let user = User::new(&sshds[0]);
        user.use_app("mixed", false);
        user.write("index.mjs", &format!("console.log(\"hello\");\n{}", user.read("index.mjs")));
        for (name, sshd) in ["one", "two"].iter().zip(&sshds) {
            user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &sshd.port.to_string()]);
        }
        user.write("tako.toml", &(user.read("tako.toml") + "servers = [\"one\", \"two\"]\n"));
        Fleet { servers, sshds, user }
    }

    /// Adds a server that accepts connections and says nothing, for as long as the listener lives.
    fn with_a_silent_one(&self) -> TcpListener {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port().to_string();
        self.user.must(&["servers", "add", "127.0.0.1", "--name", "lab", "--port", &port, "--no-check"]);
        silent
    }

    fn deploy(&self) -> String {
        self.user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_string()
    }
}

fn events(ran: &Ran, name: &str) -> Vec<Value> {
    let all = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {ran}")));
    all.filter(|event| event["event"] == name).collect()
}

#[test]
fn a_server_that_hangs_or_is_gone_is_a_row_and_the_others_are_told() {
    let mut fleet = Fleet::new();
    fleet.deploy();
    let _silent = fleet.with_a_silent_one();
    let user = &fleet.user;
    user.write("tako.toml", &user.read("tako.toml").replace("\"two\"]", "\"two\", \"lab\"]"));
    fleet.sshds[1].stop();

    let ran = user.run(&["status"]);
    assert_eq!(ran.code, 6, "{ran}");
    let row = |server: &str| ran.out.lines().find(|l| l.contains(server)).unwrap_or_else(|| panic!("{server}: {ran}"));
    assert!(row(" one ").contains("live") && row(" two ").contains("! unreachable"), "{ran}");
    assert!(row(" lab ").contains("! unreachable") || row(" lab ").contains("! no answer"), "{ran}");
    for server in ["two", "lab"] {
        assert!(ran.err.contains(&format!("`tako servers check {server}`")), "{ran}");
    }
    let told = user.run(&["status", "--json"]);
    assert_eq!(told.code, 6, "{told}");
    let apps = events(&told, "result")[0]["apps"].clone();
    assert_eq!(apps.as_array().unwrap().iter().filter(|app| app["ok"] == true).count(), 1, "{told}");

    let ran = user.run(&["servers", "status"]);
    assert_eq!(ran.code, 6, "{ran}");
    assert!(ran.out.lines().any(|l| l.contains("one") && l.contains("● up")), "{ran}");
    let ran = user.run(&["releases", "ls"]);
    assert!(ran.code == 6 && ran.out.contains("● "), "{ran}");
    let ran = user.run(&["logs", "--lines", "5"]);
    assert!(ran.code == 6 && ran.out.contains("[one] "), "{ran}");
}

#[test]
fn a_check_walks_the_way_and_stops_where_it_ends() {
    let mut fleet = Fleet::new();
    let user = &fleet.user;
    let steps = |ran: &Ran| -> Vec<String> {
        let step = |event: &Value| format!("{} {}", event["step"].as_str().unwrap(), event["state"].as_str().unwrap());
        events(ran, "step").iter().map(step).collect()
    };
    let all = user.run(&["servers", "check", "one", "--json"]);
    let words = [
        "resolve",
        "tcp",
        "banner",
        "host key",
        "login",
        "shell",
        "tako-server",
        "socket",
        "version",
        "clock",
        "disk",
        "proxy",
    ];
    assert_eq!(steps(&all).iter().map(|s| s.rsplit_once(' ').unwrap().0).collect::<Vec<_>>(), words, "{all}");
    assert!(all.code == 0 && !all.out.contains("failed"), "{all}");
    let shown = user.must(&["servers", "check", "one"]);
    for found in ["SSH-2.0-OpenSSH", "ed25519 SHA256:", "publickey", "protocol 1", &fleet.servers[0].http.to_string()] {
        assert!(shown.out.contains(found), "no {found} in {shown}");
    }

    // A door that nobody answers, one behind which nobody speaks, one whose key is another, and no daemon.
    let _silent = fleet.with_a_silent_one();
    let user = &fleet.user;
    let silent = user.run(&["servers", "check", "lab", "--json"]);
    assert_eq!(steps(&silent), ["resolve ok", "tcp ok", "banner failed"]);
    assert_eq!(silent.code, 6);
    let known = std::fs::read_to_string(fleet.sshds[0].known_hosts()).unwrap();
    fleet.sshds[0].know("");
    let ran = user.run(&["servers", "check", "one"]);
    ran.assert_failed(6, &["its host key is not known here", "hint:"]);
    assert!(ran.out.contains("✗ host key") || ran.out.contains("x host key"), "{ran}");
    std::fs::write(fleet.sshds[0].known_hosts(), known).unwrap();
    assert!(fleet.servers[0].shut_down());
    let ran = user.run(&["servers", "check", "one", "--json"]);
    assert_eq!(steps(&ran)[6..], ["tako-server ok", "socket failed"], "{ran}");
    fleet.sshds[1].stop();
    let ran = fleet.user.run(&["servers", "check", "two", "--json"]);
    assert_eq!(steps(&ran), ["resolve ok", "tcp failed"], "{ran}");
    // All at once, a line each.
    let ran = fleet.user.run(&["servers", "check"]);
    assert_eq!(ran.code, 6, "{ran}");
    assert_eq!(ran.out.lines().count(), 3, "{ran}");
}

#[test]
fn logs_are_one_stream_of_all_servers_and_so_are_their_requests() {
    let fleet = Fleet::new();
    let user = &fleet.user;
    fleet.deploy();
    for (n, server) in fleet.servers.iter().enumerate() {
        let mut client = Client::plain(server.http, HOST).unwrap();
        for m in 0..3 {
            assert_eq!(client.get(&format!("/?asked-{n}-{m}")).unwrap().status / 100, 2);
        }
    }
    let requests = wait_for("all requests to be written down", || {
        let ran = user.must(&["logs", "--access", "--grep", "/?asked-", "--json"]);
        let found = events(&ran, "access");
        (found.len() == 6).then_some(found)
    });
    let times: Vec<&str> = requests.iter().map(|event| event["request"]["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(requests.iter().all(|e| e["request"]["status"] == 200 && e["request"]["app"] == "shop"), "{requests:?}");
    assert_eq!(requests.iter().filter(|event| event["server"] == "two").count(), 3);
    let shown = user.must(&["logs", "--access", "--grep", "/?asked-1-2"]);
    let line = shown.out.lines().next().unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("[two] 200 GET shop.localhost/?asked-1-2 ") && line.contains(" ms "), "{shown}");
    assert!(user.must(&["logs", "--access", "--err", "--grep", "/?asked-"]).out.is_empty());
    user.run(&["logs", "--access", "--instance", "1"]).assert_failed(2, &["--instance"]);
    let plain = user.must(&["logs"]);
    assert!(plain.out.contains("[one] #1 ") && plain.out.contains("[two] #1 "), "{plain}");
}

#[test]
fn the_last_lines_are_those_of_all_servers_together() {
    let fleet = Fleet::new();
    let user = &fleet.user;
    let page = "const page = pages[";
    user.write(
        "index.mjs",
        &user.read("index.mjs").replace(page, &format!("console.log(searchParams.get(\"say\"));\n  {page}")),
    );
    fleet.deploy();
    let mut clients = [0, 1].map(|n| Client::plain(fleet.servers[n].http, HOST).unwrap());
    let mut say = |server: usize, what: &str| {
        assert_eq!(clients[server].get(&format!("/?say=said-{what}")).unwrap().status, 200);
    };
    let lines = |more: &[&str]| {
        let ran = user.must(&[&["logs", "--grep", "said-", "--json"], more].concat());
        events(&ran, "log")
    };
    let all_of = |count: usize| {
        wait_for("all lines to be written down", || Some(lines(&["--since", "1h"])).filter(|all| all.len() == count))
    };
    for n in 0..6 {
        say(0, &n.to_string());
        say(1, &n.to_string());
    }
    // A line has the time at which it was heard, which is not that of the request.
    all_of(12);
    (6..10).for_each(|n| say(0, &n.to_string()));
    let all = all_of(16);
    let times: Vec<u64> = all.iter().map(|line| line["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    for count in [0, 1, 3, 7, 16, 40] {
        let last = lines(&["--lines", &count.to_string()]);
        assert_eq!(last, all[16 - count.min(16)..], "--lines {count}");
    }
    // Of four only the first server's are the last.
    assert!(lines(&["--lines", "4"]).iter().all(|line| line["server"] == "one"));

    (0..5).for_each(|_| say(1, "again"));
    let all = all_of(21);
    let shown = user.must(&["logs", "--grep", "said-", "--lines", "6"]).out;
    let shown: Vec<&str> = shown.lines().collect();
    assert!(shown.len() == 2 && shown[0].ends_with("[one] #1 said-9"), "{shown:?}");
    assert!(shown[1].ends_with("[two] #1 said-again  × 5"), "{shown:?}");

    // Before what is followed, too.
    let told = user.dir.path().join("told");
    let mut follow = user.command(&["logs", "--tail", "--lines", "6", "--grep", "said-", "--json"]);
    let mut follow = Running(follow.stdout(std::fs::File::create(&told).unwrap()).spawn().unwrap());
    let told = |count: usize| {
        wait_for("what is followed to be told", || {
            let text = std::fs::read_to_string(&told).unwrap();
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        })
    };
    assert_eq!(told(6), all[15..]);
    say(0, "now");
    assert_eq!(told(7)[6]["text"], "said-now");
    say(1, "then");
    let told = told(8);
    assert_eq!((told.len(), &told[7]["text"], &told[7]["server"]), (8, &"said-then".into(), &"two".into()));
    follow.kill();
}

#[test]
fn what_only_some_servers_take_is_told_with_what_is_where() {
    let mut fleet = Fleet::new();
    let first = fleet.deploy();
    fleet.user.write("change.txt", "two");
    let second = fleet.deploy();
    let port = fleet.sshds[1].port;
    fleet.sshds[1].stop();
    let partly = |ran: &Ran, what: &str| {
        ran.assert_failed(5, &[&format!("{what} on 1 of 2 servers"), "done    one", "failed  two: "]);
    };
    let user = &fleet.user;
    partly(&user.run(&["scale", "2"]), "changed");
    // A rollback has one goal for all, which is not known while one does not answer: nothing changes.
    let others = "`tako releases rollback --server one` goes back on the others alone";
    user.run(&["releases", "rollback"]).assert_failed(6, &["two", others]);
    user.run(&["deploy", "--yes"]).assert_failed(6, &["two", "`tako deploy --server one` leaves it out"]);
    assert_eq!(fleet.servers[0].current("shop"), Some(second));
    user.must(&["releases", "rollback", "--server", "one"]);
    assert_eq!(fleet.servers[0].current("shop"), Some(first));
    partly(&user.run(&["delete", "--confirm", "shop"]), "deleted");
    assert!(!fleet.servers[0].app("shop").exists() && fleet.servers[1].app("shop").exists());
    assert!(port > 0);
    user.run(&["releases", "rollback", "--server", "on"]).assert_failed(2, &[]);
    user.run(&["status", "--server", "on"]).assert_failed(2, &["did you mean `one`?"]);
}

#[test]
fn a_rollback_is_of_all_servers_or_of_none() {
    let fleet = Fleet::new();
    let (user, [one, two]) = (&fleet.user, &fleet.servers);
    let first = fleet.deploy();
    user.write("change.txt", "two");
    let second = user.result(&["deploy", "--yes", "--server", "one", "--json"]);
    let second = second["version"].as_str().unwrap();
    let alone = format!("`tako releases rollback {second} --server one`");
    user.must(&["releases", "rollback", "--server", "one"]);
    user.run(&["releases", "rollback", second]).assert_failed(1, &["is not on two", "nothing was changed", &alone]);
    assert_eq!([one, two].map(|server| server.current("shop")), [Some(first.clone()), Some(first.clone())]);

    // What some have gone back from already, the others follow with: it is no step further back.
    user.write("change.txt", "three");
    let third = fleet.deploy();
    user.must(&["releases", "rollback", "--server", "two"]);
    assert_eq!([one, two].map(|server| server.current("shop")), [Some(third), Some(first.clone())]);
    user.must(&["releases", "rollback"]);
    assert_eq!([one, two].map(|server| server.current("shop")), [Some(first.clone()), Some(first)]);
}

#[test]
fn one_server_by_two_names_is_told_before_anything_is_done() {
    let fleet = Fleet::new();
    let (user, port) = (&fleet.user, fleet.sshds[0].port.to_string());
    let added = user.must(&["servers", "add", "127.0.0.1", "--name", "lab", "--port", &port]);
    assert!(added.err.contains("one is the same server by another name"), "{added}");
    user.write("tako.toml", &user.read("tako.toml").replace("\"two\"]", "\"two\", \"lab\"]"));
    for command in [&["deploy", "--yes"][..], &["status"]] {
        user.run(command).assert_failed(3, &["one and lab are the same server", "[envs.production]"]);
    }
    user.must(&["servers", "rm", "lab", "--yes"]);
    user.run(&["status"]).assert_failed(3, &["there is no server `lab`", "tako servers add HOST --name lab"]);
}
