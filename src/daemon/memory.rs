//! How much memory the catalog may take: a share of what the process is allowed, and enough for 10,000 registrations.

use std::fs;

/// Of the memory that is allowed. What is known is kept by the mirror, by the core, and as what is wanted; and more is needed
/// while it is read.
const SHARE: usize = 5;
/// What 13,000 ordinary registrations take. With it the process stays below 64 MB.
const LEAST: usize = 12 * 1024 * 1024;
/// What no HAProxy has as many servers for.
const MOST: usize = 256 * 1024 * 1024;

/// What the catalog may take, in bytes.
pub(super) fn catalog_room() -> usize {
    let own = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    room(&own, &group)
}

fn room(own: &str, group: &str) -> usize {
    let data = own.lines().find_map(|line| {
        let limit = line.strip_prefix("Max data size")?;
        limit.split_whitespace().next()?.parse::<usize>().ok()
    });
    let group = group.trim().parse::<usize>().ok();
    let allowed = data.into_iter().chain(group).min();
    allowed.map_or(MOST, |allowed| (allowed / SHARE).clamp(LEAST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_limit_counts_and_none_is_much() {
        let own = |limit: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {limit}            unlimited            bytes\n"
            )
        };
        assert_eq!(room("", ""), MOST);
        assert_eq!(room(&own("unlimited"), "max\n"), MOST);
        assert_eq!(room(&own("67108864"), "max\n"), 67_108_864 / 5);
        assert_eq!(room(&own("unlimited"), "1073741824\n"), 1_073_741_824 / 5);
        assert_eq!(room(&own("1073741824"), "16777216\n"), LEAST);
    }
}
