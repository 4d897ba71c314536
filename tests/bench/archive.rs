//! What packing and unpacking cost: a tree of 200 MB in 20,000 files, of a fixed seed, beside `tar | zstd -3 -T0` and
//! `zstd -d | tar -x` of the same tree, in turns. Ours finds the files, hashes the tar and, unpacking, waits for the disk;
//! theirs does not, so there is a row where it does. The source bundle has rows beside the same archive: sources are found, read
//! and hashed, and packed, as the first deploy of a project does it, and as every other, which reads again what was touched. Each
//! writes a file that was not there before, as a deploy does. Prints min, median and max and the processor time of the median, which tells
//! more where others are at work, and what ours takes of theirs: the median of what it took in each turn, so that a machine that
//! becomes slower for a while slows both. Each turn begins with another one, when what was written before is on the disk. Judges
//! nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tako::archive_lab::{pack, unpack};
use tako::build_lab::{bundle, forget, remember};

const RUNS: usize = 9;
/// These wait for the disk, each for some seconds.
const DISK_RUNS: usize = 3;
const FILES: usize = 20_000;
const BYTES: usize = 200 << 20;
/// What does not shrink: pictures, fonts, programs that are packed already.
const NOISE_PERCENT: u64 = 30;
const SEED: u64 = 0x7a6b_6f21_9e37_79b9;

fn main() {
    let dir = tempfile::TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    let (files, bytes) = grow(&tree);
    println!("{files} files, {} MB; {RUNS} runs in turns, {DISK_RUNS} with the disk; milliseconds", bytes >> 20);
    println!("{:<40} {:>8} {:>8} {:>8} {:>9}", "", "min", "median", "max", "processor");

    let at = |name: &str| dir.path().join(name);
    let quote = |path: &Path| path.to_str().unwrap().to_string();
    let [ours, theirs, into, artifacts] = ["ours.tar.zst", "theirs.tar.zst", "into", "artifacts"].map(at);
    let archive = format!(
        "tar -C {} -cf - --exclude=./.tako --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . | zstd -q -3 -T0 -f -o {}",
        quote(&tree),
        quote(&theirs)
    );
    let lay_out = format!("mkdir {0} && zstd -q -dc {1} | tar -C {0} -xf -", quote(&into), quote(&theirs));
    let synced = format!("{lay_out} && sync -f {}", quote(&into));

    // Files that were written this moment are not remembered.
    std::thread::sleep(Duration::from_secs(3));
    let (mut bundles, mut again, mut packs, mut tars, mut what) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), None);
    for run in 0..RUNS {
        for turn in 0..4 {
            // To replace a file takes longer: some file systems wait until the new one is on the disk.
            let made = [&ours, &theirs, &artifacts, &artifacts][(run + turn) % 4];
            let _ = fs::remove_file(made).or_else(|_| fs::remove_dir_all(made));
            fs::create_dir_all(&artifacts).unwrap();
            sh("sync");
            match (run + turn) % 4 {
                0 => packs.push(time(|| what = Some(pack(&tree, &walk(&tree), &ours).unwrap()))),
                1 => tars.push(time(|| sh(&archive))),
                2 => {
                    forget(&tree);
                    bundles.push(time(|| bundle(&tree, &artifacts).unwrap()));
                }
                _ => {
                    remember(&tree).unwrap();
                    again.push(time(|| bundle(&tree, &artifacts).unwrap()));
                }
            }
        }
    }
    row("tar | zstd -3 -T0", &tars);
    row("pack", &packs);
    ratio("  pack of theirs", &packs, &tars);
    row("bundle", &bundles);
    ratio("  bundle of theirs", &bundles, &tars);
    row("bundle, none touched", &again);
    ratio("  bundle of theirs, none touched", &again, &tars);
    let [ours_bytes, theirs_bytes] = [&ours, &theirs].map(|file| fs::metadata(file).unwrap().len());
    println!("{:<40} {:>17.2}", "  size of the archive of theirs", ours_bytes as f64 / theirs_bytes as f64);

    let (sha256, unpacked) = what.unwrap();
    let (mut unpacks, mut plain, mut durable) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..DISK_RUNS {
        let take = |times: &mut Vec<Cost>, act: &dyn Fn()| {
            sh("sync");
            times.push(time(act));
            fs::remove_dir_all(&into).unwrap();
        };
        take(&mut unpacks, &|| unpack(&ours, &into, &sha256, unpacked).unwrap());
        take(&mut plain, &|| sh(&lay_out));
        take(&mut durable, &|| sh(&synced));
    }
    row("zstd -d | tar -x", &plain);
    row("zstd -d | tar -x && sync -f", &durable);
    row("unpack, which syncs", &unpacks);
    ratio("  unpack of theirs, both synced", &unpacks, &durable);
}

/// A tree like that of a web app: most files small text, a few large, some that do not shrink.
fn grow(root: &Path) -> (usize, usize) {
    let mut random = Random(SEED);
    let words: Vec<String> = (0..4000).map(|_| word(&mut random)).collect();
    let mut left = BYTES;
    for n in 0..FILES {
        let folder = root.join(format!("vendor/pkg-{}/{}", n / 40, ["lib", "dist/esm", "src", "."][n % 4]));
        fs::create_dir_all(&folder).unwrap();
        // Half of them below 4 KiB, one in a hundred some hundred KiB.
        let size = match random.below(100) {
            0 => 300_000 + random.below(430_000),
            1..=9 => 8_000 + random.below(40_000),
            _ => 100 + random.below(5_800),
        } as usize;
        let size = if n + 1 == FILES { left } else { size.min(left) };
        left -= size;
        let content = match random.below(100) < NOISE_PERCENT {
            true => random.noise(size),
            false => text(&mut random, &words, size),
        };
        fs::write(folder.join(format!("module-{n}.js")), content).unwrap();
    }
    sh("sync");
    (FILES, BYTES)
}

fn word(random: &mut Random) -> String {
    (0..2 + random.below(9)).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

fn text(random: &mut Random, words: &[String], size: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(size + 16);
    while text.len() < size {
        // Few words are most of a text.
        let which = random.below(words.len() as u64) * random.below(words.len() as u64) / words.len() as u64;
        text.extend_from_slice(words[which as usize].as_bytes());
        text.extend_from_slice([" ", "(", ");\n", " = ", ".", ", ", "\n  ", "{ "][random.below(8) as usize].as_bytes());
    }
    text.truncate(size);
    text
}

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn noise(&mut self, size: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(size);
        bytes
    }
}

fn walk(root: &Path) -> Vec<PathBuf> {
    fn into(root: &Path, below: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                // What is remembered is no part of the source.
                true if path == Path::new(".tako") => {}
                true => into(root, &path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    into(root, Path::new(""), &mut found);
    found
}

fn sh(line: &str) {
    let status = Command::new("bash").args(["-o", "pipefail", "-c", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

/// How long it took, and how long processors were at it, of ours and of programs that we started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    wall: Duration,
    processor: Duration,
}

fn time(act: impl FnOnce()) -> Cost {
    let (started, before) = (Instant::now(), processor());
    act();
    Cost { wall: started.elapsed(), processor: processor() - before }
}

fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // proc(5): the name ends with the last bracket; utime, stime, cutime and cstime are fields 14 to 17, in ticks of 10 ms.
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = after_name.split(' ').skip(11).take(4).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn ratio(what: &str, ours: &[Cost], theirs: &[Cost]) {
    let of = |part: fn(&Cost) -> Duration| {
        let share = |(ours, theirs): (&Cost, &Cost)| part(ours).as_secs_f64() / part(theirs).as_secs_f64();
        let mut shares: Vec<f64> = ours.iter().zip(theirs).map(share).collect();
        shares.sort_by(f64::total_cmp);
        shares[shares.len() / 2]
    };
    println!("{what:<40} {:>17.2} {:>18.2}", of(|cost| cost.wall), of(|cost| cost.processor));
}

fn median(costs: &[Cost], what: fn(&Cost) -> Duration) -> Duration {
    let mut times: Vec<Duration> = costs.iter().map(what).collect();
    times.sort();
    times[times.len() / 2]
}

fn row(what: &str, costs: &[Cost]) {
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let (min, max) = (costs.iter().min().unwrap().wall, costs.iter().max().unwrap().wall);
    let [wall, processor] = [median(costs, |cost| cost.wall), median(costs, |cost| cost.processor)];
    println!("{what:<40} {:>8.0} {:>8.0} {:>8.0} {:>9.0}", ms(min), ms(wall), ms(max), ms(processor));
}
