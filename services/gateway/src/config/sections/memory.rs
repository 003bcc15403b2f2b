//! How much memory the machine, or the container, has.

use std::{fs, path::Path};

const LEAST_BUFFERS: u64 = 64 << 20;
/// The share of the memory that connections' buffers may take.
const SHARE: u64 = 8;

/// The default of `server.max_buffers`.
pub(super) fn default_buffers() -> u64 {
    buffers_for(limit(Path::new("/")))
}

fn buffers_for(memory: Option<u64>) -> u64 {
    memory.map_or(LEAST_BUFFERS, |memory| (memory / SHARE).max(LEAST_BUFFERS))
}

/// The limit of the control group (version 2, then 1), or else the machine's memory.
fn limit(root: &Path) -> Option<u64> {
    let machine = || {
        let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    let group = [
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|file| {
        fs::read_to_string(root.join(file))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    });
    // Version 1 says "no limit" with a number near 2^63.
    match (group, machine()) {
        (Some(group), Some(machine)) => Some(group.min(machine)),
        (group, machine) => group.or(machine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> std::path::PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weaver-memory-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_limit_is_the_control_groups_and_the_machines_where_there_is_none() {
        let machine = (
            "proc/meminfo",
            "MemTotal:       8388608 kB\nMemFree: 1 kB\n",
        );
        let two = ("sys/fs/cgroup/memory.max", "1073741824\n");
        let unlimited = ("sys/fs/cgroup/memory.max", "max\n");
        let one = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(limit(&root(&[machine, two])), Some(1 << 30));
        assert_eq!(limit(&root(&[machine, unlimited])), Some(8 << 30));
        assert_eq!(limit(&root(&[machine, one])), Some(8 << 30));
        assert_eq!(limit(&root(&[two])), Some(1 << 30));
        assert_eq!(limit(&root(&[])), None);
    }

    #[test]
    fn buffers_get_an_eighth_and_never_less_than_64_mib() {
        assert_eq!(buffers_for(Some(8 << 30)), 1 << 30);
        assert_eq!(buffers_for(Some(128 << 20)), 64 << 20);
        assert_eq!(buffers_for(None), 64 << 20);
    }
}
