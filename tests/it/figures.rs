//! What a process takes, as the kernel tells it (proc(5)).

use std::fs;

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
