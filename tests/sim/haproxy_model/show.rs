//! The answers to `show …`, column by column.

use std::time::Duration;

use super::{
    Backend, Line, Model,
    server::{STOPPED, Server},
};

const SERVERS_STATE_HEADER: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
    srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health \
    srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
    srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";

/// `be_id` of the first backend, in a file without frontends.
const FIRST_ID: usize = 2;

/// `Start_time_sec` of a process that starts at zero of the simulated clock.
const EPOCH_SECS: u64 = 1_700_000_000;

impl Model {
    pub(super) fn show_info(&self) -> String {
        format!(
            "Name: HAProxy\nVersion: {}\nNbthread: 2\nProcess_num: 1\nPid: {}\nUptime_sec: {}\nCumConns: {}\nStopping: {}\n\
             Start_time_sec: {}\n",
            self.version,
            self.pid,
            self.now.saturating_sub(self.started).as_secs(),
            self.connections,
            u8::from(self.stopping),
            EPOCH_SECS + self.started.as_secs(),
        )
    }

    pub(super) fn show_backend(&self) -> String {
        let names = self.backends.iter().map(|(backend, _)| &backend.name);
        names.fold("# name\n".to_owned(), |text, name| text + name + "\n")
    }

    pub(super) fn show_servers_state(&self, backend: Option<&str>) -> String {
        let mut text = format!("1\n{SERVERS_STATE_HEADER}");
        let mut found = backend.is_none();
        for (index, (config, servers)) in self.backends.iter().enumerate() {
            if backend.is_some_and(|name| name != config.name) {
                continue;
            }
            found = true;
            for server in servers {
                text += &servers_state_row(index + FIRST_ID, config, server, self.now);
            }
        }
        if found {
            text
        } else {
            "Can't find backend.\n".to_owned()
        }
    }

    pub(super) fn show_stat(&self, backend: &str) -> String {
        let Some((index, (config, servers))) =
            self.backends
                .iter()
                .enumerate()
                .find(|(index, (config, _))| {
                    config.name == backend || (index + FIRST_ID).to_string() == backend
                })
        else {
            return "No such proxy.\n".to_owned();
        };
        let header = self.line.stat_header();
        // Most columns are of no interest, and there are many.
        let columns: Vec<_> = columns(header)
            .map(|column| (column, CELLS.contains(&column)))
            .collect();
        let mut text = header.to_owned();
        text.reserve(servers.len() * 3 * columns.len());
        for server in servers {
            for (column, has_cell) in &columns {
                if *has_cell {
                    text += &stat_cell(column, index + FIRST_ID, config, server, self.now);
                }
                text.push(',');
            }
            text.push('\n');
        }
        text + &backend_row(header, config)
    }

    pub(super) fn show_stat_of_backends(&self) -> String {
        let header = self.line.stat_header();
        let backends = self.backends.iter();
        let rows = backends.map(|(config, _)| backend_row(header, config));
        [header.to_owned()].into_iter().chain(rows).collect()
    }
}

fn columns(header: &str) -> impl Iterator<Item = &str> {
    let columns = header.trim_start_matches("# ").trim_end();
    columns.split_terminator(',')
}

/// Of a backend itself only its name and its cookie's are of interest.
fn backend_row(header: &str, backend: &Backend) -> String {
    let cells = columns(header).map(|column| match column {
        "pxname" => backend.name.as_str(),
        "svname" => "BACKEND",
        "cookie" if backend.is_sticky => "id",
        _ => "",
    });
    let cells: Vec<&str> = cells.collect();
    cells.join(",") + ",\n"
}

impl Line {
    /// The header line of `show stat`, as recorded from the nearest line that is not newer.
    fn stat_header(self) -> &'static str {
        macro_rules! recorded {
            ($version:literal) => {
                include_str!(concat!(
                    "../../fixtures/haproxy-",
                    $version,
                    "/show-stat-header.csv"
                ))
            };
        }
        match self {
            line if line >= Self(3, 4) => recorded!("3.4.7"),
            line if line >= Self(3, 2) => recorded!("3.2.26"),
            line if line >= Self(3, 0) => recorded!("3.0.11"),
            line if line >= Self(2, 8) => recorded!("2.8.25"),
            _ => recorded!("2.6.12"),
        }
    }
}

fn servers_state_row(iid: usize, backend: &Backend, server: &Server, now: Duration) -> String {
    let check_port = server.check.map_or(0, |check| check.port);
    // Without one it is the check's.
    let agent_port = server.agent.unwrap_or(check_port);
    format!(
        "{iid} {} {} {} {} {} {} {} {} {} {} {} {} {} {} 0 0 {} {} - 0 {check_port} - - {agent_port}\n",
        backend.name,
        server.id,
        server.name,
        server.address.ip(),
        server.oper,
        server.admin,
        server.weight,
        server.initial_weight,
        now.saturating_sub(server.changed).as_secs(),
        server.check_status.number(),
        server.check_result,
        server.health,
        server.check_state(),
        server.agent_state(),
        if server.is_named { "slot.invalid" } else { "-" },
        server.address.port(),
    )
}

/// The columns that are filled.
const CELLS: [&str; 24] = [
    "pxname",
    "svname",
    "scur",
    "slim",
    "stot",
    "status",
    "act",
    "bck",
    "lastchg",
    "pid",
    "iid",
    "sid",
    "type",
    "mode",
    "check_status",
    "check_rise",
    "check_fall",
    "check_health",
    "addr",
    "srv_icur",
    "cookie",
    "qcur",
    "priv_idle_cur",
    "uweight",
];

/// One cell of `show stat`; columns that nobody reads here are left empty.
fn stat_cell(
    column: &str,
    iid: usize,
    backend: &Backend,
    server: &Server,
    now: Duration,
) -> String {
    let checked = server.check_enabled && !server.check_paused;
    match column {
        "pxname" => backend.name.clone(),
        "svname" => server.name.clone(),
        "scur" => server.sessions.len().to_string(),
        "slim" if server.maxconn > 0 => server.maxconn.to_string(),
        "stot" => server.total_sessions.to_string(),
        "status" => status(server),
        "act" => u8::from(!server.backup).to_string(),
        "bck" => u8::from(server.backup).to_string(),
        "lastchg" => now.saturating_sub(server.changed).as_secs().to_string(),
        "pid" => "1".to_owned(),
        "iid" => iid.to_string(),
        "sid" => server.id.to_string(),
        "type" => "2".to_owned(),
        "mode" => "http".to_owned(),
        "check_status" if checked => server.check_status.word().to_owned(),
        "check_rise" if checked => server.rise().to_string(),
        "check_fall" if checked => (server.full_health() + 1 - server.rise()).to_string(),
        "check_health" if checked => server.health.to_string(),
        "addr" => server.address.to_string(),
        "srv_icur" => server.idle.len().to_string(),
        "cookie" => server.cookie.clone().unwrap_or_default(),
        "qcur" | "priv_idle_cur" => "0".to_owned(),
        "uweight" => server.weight.to_string(),
        _ => String::new(),
    }
}

/// The `status` column.
fn status(server: &Server) -> String {
    if server.in_maintenance() {
        return "MAINT".to_owned();
    }
    let rise = i32::from(server.rise());
    let fall = i32::from(server.full_health()) + 1 - rise;
    let health = i32::from(server.health);
    let word = if server.in_drain() { "DRAIN" } else { "UP" };
    if server.oper == STOPPED {
        if health > 0 {
            format!("DOWN {health}/{rise}")
        } else {
            "DOWN".to_owned()
        }
    } else if server.check_enabled && server.health < server.full_health() {
        format!("{word} {}/{fall}", health - rise + 1)
    } else if server.in_drain() || server.check_enabled {
        word.to_owned()
    } else {
        "no check".to_owned()
    }
}
