//! What a process takes, as the kernel tells it (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub rss_kib: u64,
    pub descriptors: usize,
    pub threads: usize,
    /// Processes that it started and that run.
    pub children: usize,
    /// Those that ended and that it did not reap.
    pub zombies: usize,
}

impl Figures {
    pub fn of(pid: u32) -> Figures {
        let (mut children, mut zombies) = (0, 0);
        for state in states_of_children(pid) {
            *(if state == 'Z' { &mut zombies } else { &mut children }) += 1;
        }
        Figures {
            rss_kib: rss_kib(pid),
            descriptors: entries(&format!("/proc/{pid}/fd")),
            threads: entries(&format!("/proc/{pid}/task")),
            children,
            zombies,
        }
    }
}

/// Resident memory.
pub fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Of all threads of one name: how long they ran since they began, and how often they were woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub ran: Duration,
    pub wakes: u64,
}

/// What the threads did so far, by name; numbers in names are left out.
pub fn work(pid: u32) -> BTreeMap<String, Work> {
    let mut all: BTreeMap<String, Work> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread may end between two looks.
        let read = |name: &str| fs::read_to_string(task.path().join(name)).ok();
        let (Some(name), Some(times), Some(status)) = (read("comm"), read("schedstat"), read("status")) else {
            continue;
        };
        let ran = times.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap();
        let wakes = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        let work = all.entry(name.trim().trim_end_matches(|c: char| c.is_ascii_digit()).into()).or_default();
        work.ran += Duration::from_nanos(ran);
        work.wakes += wakes.trim().parse::<u64>().unwrap();
    }
    all
}

/// What was done between two looks.
pub fn between(before: &BTreeMap<String, Work>, after: &BTreeMap<String, Work>) -> BTreeMap<String, Work> {
    let since = |(name, now): (&String, &Work)| {
        let then = before.get(name).copied().unwrap_or_default();
        let work = Work { ran: now.ran.saturating_sub(then.ran), wakes: now.wakes.saturating_sub(then.wakes) };
        (name.clone(), work)
    };
    after.iter().map(since).collect()
}

fn states_of_children(pid: u32) -> Vec<char> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let state = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent) = (fields.next()?.chars().next()?, fields.next()?.parse::<u32>().ok()?);
        (parent == pid).then_some(state)
    };
    pids.filter_map(state).collect()
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}
