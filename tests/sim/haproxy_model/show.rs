//! The answers to `show …`, column by column.

use std::{fmt::Write as _, time::Duration};

use super::{
    Backend, Line, Model,
    server::{STOPPED, Server},
};

const SERVERS_STATE_HEADER: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
    srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health \
    srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
    srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";

/// `be_id` of the first backend, in a file without frontends.
pub(super) const FIRST_ID: usize = 2;

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
                servers_state_row(config.iid(index), config, server, self.now, &mut text);
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
                    config.name == backend || config.iid(*index).to_string() == backend
                })
        else {
            return "No such proxy.\n".to_owned();
        };
        let mut text = self.line.stat_header().to_owned();
        for server in servers {
            self.stat_layout.row(&mut text, |column, text| {
                stat_cell(column, config.iid(index), config, server, self.now, text);
            });
        }
        self.backend_row(config, &mut text);
        text
    }

    pub(super) fn show_stat_of_backends(&self) -> String {
        let mut text = self.line.stat_header().to_owned();
        for (config, _) in &self.backends {
            self.backend_row(config, &mut text);
        }
        text
    }

    /// Of a backend itself only its name and its cookie's are of interest.
    fn backend_row(&self, backend: &Backend, text: &mut String) {
        self.stat_layout.row(text, |column, text| match column {
            "pxname" => *text += &backend.name,
            "svname" => *text += "BACKEND",
            "cookie" if backend.is_sticky => *text += "id",
            "status" if backend.is_unpublished() => *text += "DOWN (UNPUB)",
            _ => {}
        });
    }
}

/// The columns of `show stat` that are filled, in their order, each with how many before it are empty. There are many, and
/// the answer is asked for often.
#[derive(Clone)]
pub(super) struct StatLayout {
    filled: Vec<(usize, &'static str)>,
    /// After the last one.
    empty: usize,
}

impl StatLayout {
    pub(super) fn new(line: Line) -> Self {
        let columns = line.stat_header().trim_start_matches("# ").trim_end();
        let (mut filled, mut empty) = (Vec::new(), 0);
        for column in columns.split_terminator(',') {
            if CELLS.contains(&column) {
                filled.push((std::mem::take(&mut empty), column));
            } else {
                empty += 1;
            }
        }
        Self { filled, empty }
    }

    fn row(&self, text: &mut String, mut cell: impl FnMut(&str, &mut String)) {
        for (empty, column) in &self.filled {
            text.extend(std::iter::repeat_n(',', *empty));
            cell(column, text);
            text.push(',');
        }
        text.extend(std::iter::repeat_n(',', self.empty));
        text.push('\n');
    }
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

fn servers_state_row(
    iid: usize,
    backend: &Backend,
    server: &Server,
    now: Duration,
    text: &mut String,
) {
    let check_port = server.check.map_or(0, |check| check.port);
    // Without one it is the check's.
    let agent_port = server.agent.unwrap_or(check_port);
    writeln!(
        text,
        "{iid} {} {} {} {} {} {} {} {} {} {} {} {} {} {} 0 0 {} {} - 0 {check_port} - - {agent_port}",
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
    .expect("it is a text");
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
    text: &mut String,
) {
    let checked = server.check_enabled && !server.check_paused;
    let number = match column {
        "pxname" => return *text += &backend.name,
        "svname" => return *text += &server.name,
        "status" => return *text += &status(server),
        "mode" => return *text += "http",
        "cookie" => return *text += server.cookie.as_deref().unwrap_or_default(),
        "check_status" if checked => return *text += server.check_status.word(),
        "addr" => return write!(text, "{}", server.address).expect("it is a text"),
        "scur" => server.sessions.len() as u64,
        "slim" if server.maxconn > 0 => server.maxconn.into(),
        "stot" => server.total_sessions,
        "act" => u64::from(!server.backup),
        "bck" => u64::from(server.backup),
        "lastchg" => now.saturating_sub(server.changed).as_secs(),
        "pid" => 1,
        "iid" => iid as u64,
        "sid" => server.id.into(),
        "type" => 2,
        "check_rise" if checked => server.rise().into(),
        "check_fall" if checked => u64::from(server.full_health() + 1 - server.rise()),
        "check_health" if checked => server.health.into(),
        "srv_icur" => server.idle.len() as u64,
        "qcur" | "priv_idle_cur" => 0,
        "uweight" => server.weight.into(),
        _ => return,
    };
    write!(text, "{number}").expect("it is a text");
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
