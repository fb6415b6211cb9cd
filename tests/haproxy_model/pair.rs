//! A real HAProxy and its model side by side, asked the same.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use crate::{
    haproxy::{Haproxy, HaproxyBin, Prompt, now},
    haproxy_model::{Conduct, Config, Model},
};

const DEFAULTS: &str = "defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n  \
    load-server-state-from-file global\n";
const STEP: Duration = Duration::from_millis(10);

/// The columns of `show stat` that the model fills.
const STAT_COLUMNS: [&str; 18] = [
    "pxname",
    "svname",
    "qcur",
    "scur",
    "slim",
    "status",
    "act",
    "bck",
    "iid",
    "sid",
    "type",
    "mode",
    "check_status",
    "check_rise",
    "check_fall",
    "check_health",
    "addr",
    "uweight",
];

/// A real HAProxy and its model, given the same commands.
pub(crate) struct Pair {
    pub(crate) real: Haproxy,
    pub(crate) prompt: Prompt,
    pub(crate) model: Model,
    pub(crate) time: Duration,
}

impl Pair {
    pub(crate) fn start(bin: &HaproxyBin, config: &Config) -> Self {
        Self::start_with(bin, config, ["", ""], |_, _| Conduct::Refuses)
    }

    /// With sections before and after those of `config`.
    pub(crate) fn start_with(
        bin: &HaproxyBin,
        config: &Config,
        [before, after]: [&str; 2],
        world: impl Fn(SocketAddr, Duration) -> Conduct + 'static,
    ) -> Self {
        let real = Haproxy::start(bin, &format!("{before}{DEFAULTS}{}{after}", config.text()));
        Self {
            prompt: real.prompt(),
            model: Model::new(
                &real.bin().version,
                config.clone(),
                Rc::new(world),
                1,
                Duration::ZERO,
            ),
            time: Duration::ZERO,
            real,
        }
    }

    /// Writes the lines in one piece, compares each answer, then the state of every server.
    pub(crate) fn agree_on(&mut self, lines: &[&str]) {
        let version = self.real.bin().version.clone();
        let answers = self.prompt.send(lines);
        for (line, real) in lines.iter().zip(&answers) {
            let model = self.model.execute(self.time, line);
            if real.starts_with("Unknown command") {
                // The commands that follow are of no interest.
                assert_eq!(
                    real.lines().next(),
                    model.lines().next(),
                    "{version}: {line}"
                );
            } else {
                assert_eq!(real, &model, "{version}: {line}");
            }
        }
        self.time += STEP;
        self.model.advance(self.time);
        self.agree_on_state(&format!("{version}: after {lines:?}"));
    }

    /// Waits until the real one says the same of its servers: changes of addresses are late, connections close late.
    pub(crate) fn agree_on_state(&mut self, context: &str) {
        let ours = state_rows(&self.model.execute(self.time, "show servers state"));
        let deadline = now() + Duration::from_secs(10);
        let theirs = loop {
            let theirs = state_rows(&self.prompt.send(&["show servers state"])[0]);
            if theirs == ours || now() > deadline {
                break theirs;
            }
        };
        agree_row_by_row(&theirs, &ours, context);
        let all = self.prompt.send(&["show backend"]).remove(0);
        for backend in all.lines().skip(1) {
            // These dumps are long.
            if context.contains('/') && !context.contains(&format!("{backend}/")) {
                continue;
            }
            let line = format!("show stat {backend} 6 -1");
            let theirs = stat_cells(&self.prompt.send(&[&line])[0]);
            let ours = stat_cells(&self.model.execute(self.time, &line));
            agree_row_by_row(&theirs, &ours, context);
        }
    }
}

fn agree_row_by_row(theirs: &[Vec<String>], ours: &[Vec<String>], context: &str) {
    for (theirs, ours) in theirs.iter().zip(ours) {
        assert_eq!(
            theirs.join(" "),
            ours.join(" "),
            "{context}\n(left: HAProxy, right: the model)"
        );
    }
    assert_eq!(theirs.len(), ours.len(), "{context}: rows");
}

/// `show servers state` without the seconds since the last change.
pub(crate) fn state_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().map(|line| {
        let mut cells: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if cells.len() == 25 {
            cells.remove(9);
        }
        cells
    });
    rows.collect()
}

/// What the model fills of `show stat`, and its header.
pub(crate) fn stat_cells(text: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let mut rows = vec![header.iter().map(|&cell| cell.to_owned()).collect()];
    let kept = STAT_COLUMNS.map(|column| header.iter().position(|cell| *cell == column));
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        // Of the backend itself only that it is there is of use.
        if cells.get(1) == Some(&"BACKEND") {
            rows.push(cells[..2].iter().map(|&cell| cell.to_owned()).collect());
            continue;
        }
        let row = kept.iter().map(|at| at.map(|at| cells[at].to_owned()));
        rows.push(row.map(Option::unwrap_or_default).collect());
    }
    rows
}
