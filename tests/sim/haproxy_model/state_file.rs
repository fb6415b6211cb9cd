//! What a starting process takes up from a server-state file (`load-server-state-from-file global`). Follows
//! `srv_state_srv_update` of HAProxy's sources as far as runs have shown it.

use std::net::{IpAddr, SocketAddr};

use super::{
    Model,
    server::{CheckStatus, DRAIN, MAINT, RUNNING, Server},
};

impl Model {
    /// Right after the start, before anything else.
    pub(crate) fn load_state(&mut self, file: &str) {
        let mut lines = file.lines();
        assert_eq!(lines.next(), Some("1"), "the version of the format");
        let rows = lines.filter(|line| !line.starts_with('#'));
        let rows: Vec<Vec<&str>> = rows.map(|line| line.split(' ').collect()).collect();
        let now = self.now;
        for (config, servers) in &mut self.backends {
            for server in servers {
                let row = rows
                    .iter()
                    .find(|row| row[1] == config.name && row[3] == server.name);
                if let Some(row) = row {
                    server.take_up(row);
                    server.changed = now;
                }
            }
        }
        self.note_leaks();
    }
}

impl Server {
    fn take_up(&mut self, row: &[&str]) {
        let number = |column: usize| -> u16 { row[column].parse().expect("a number") };
        let [oper, admin] = [5, 6].map(|column| number(column).to_le_bytes()[0]);
        let ip: IpAddr = if self.is_named {
            row[4].parse().expect("an address")
        } else {
            self.address.ip()
        };
        self.address = SocketAddr::new(ip, number(18));
        if number(8) == self.initial_weight {
            self.weight = number(7);
        }
        self.check_status = CheckStatus::ALL
            .into_iter()
            .find(|status| u16::from(status.number()) == number(10))
            .expect("a status that the model knows");
        self.agent_enabled = self.agent.is_some() && number(14) & 4 != 0;
        self.check_result = number(11).to_le_bytes()[0];
        // Whoever wrote the line has seen it pass.
        self.has_passed = oper == RUNNING;
        if oper == RUNNING {
            self.health = self.full_health();
        }
        // Leaving the `disabled` of its line is leaving maintenance: UP, whatever the row says.
        if admin & MAINT == 0 {
            self.make_ready();
        }
        if admin & (MAINT | DRAIN) == DRAIN {
            self.admin |= DRAIN;
        }
    }
}
