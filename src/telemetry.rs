//! Sets up the log: `tracing` events as plain lines or JSON objects on the standard error, times in UTC.
//!
//! There are no colours, so a log is the same text wherever it goes. Values come from the catalog and from HAProxy, so
//! control characters in them are escaped: one event is one line, and no terminal obeys it. A standard error that is gone
//! loses the log and nothing else. The filter is `Targets`: `info`, or `info,haproxy_nomad_sidecar::nomad=debug`.

use std::{
    io::{self, Write},
    panic,
};

use tracing::{Subscriber, error, subscriber::set_global_default};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, registry};

use crate::config::{Log, LogFormat};

/// The log was set up before. It happens once in a process.
#[derive(Debug, thiserror::Error)]
#[error("set up the log")]
pub struct Error(#[from] tracing::subscriber::SetGlobalDefaultError);

/// Sends every event of the process, panics too, to the standard error, as `log` says.
pub fn init(log: &Log) -> Result<(), Error> {
    let filter = log.filter.clone();
    match log.format {
        LogFormat::Plain => set_global_default(plain(filter, io::stderr)),
        LogFormat::Json => set_global_default(json(filter, io::stderr)),
    }
    .map_err(Error)?;
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("without words");
        error!(place, "panicked, which is a bug: {message}");
    }));
    Ok(())
}

fn plain<W>(
    filter: Targets,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync
where
    W: Write + 'static,
{
    let lines = fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(move || OneLine(to()));
    registry().with(filter).with(lines)
}

fn json<W>(
    filter: Targets,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync
where
    W: Write + 'static,
{
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .log_internal_errors(false)
        .with_writer(to);
    registry().with(filter).with(lines)
}

/// Writes each event, which the layer hands over as a whole, as one line.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = String::with_capacity(event.len());
        for c in text.trim_end_matches('\n').chars() {
            if c.is_control() {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, subscriber::with_default};

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn log_something() {
        info!(backend = "web", added = 2, name = %"a\u{1b}[2Jb\nc", "applied");
        debug!("not shown");
    }

    #[test]
    fn plain_lines_have_utc_time_level_message_and_fields() {
        let lines = Lines::default();
        let to = lines.clone();
        let filter = "info".parse().unwrap();
        with_default(plain(filter, move || to.clone()), log_something);

        let text = lines.text();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{text}");
        assert_eq!(
            rest,
            " INFO haproxy_nomad_sidecar::telemetry::tests: applied backend=\"web\" added=2 name=a\\u{1b}[2Jb\\nc\n"
        );
    }

    #[test]
    fn json_lines_have_the_fields_at_the_top() {
        let lines = Lines::default();
        let to = lines.clone();
        let filter = "info".parse().unwrap();
        with_default(json(filter, move || to.clone()), log_something);

        let event: serde_json::Value = serde_json::from_str(&lines.text()).unwrap();
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "applied");
        assert_eq!(event["backend"], "web");
        assert_eq!(event["added"], 2);
    }

    #[test]
    fn the_filter_goes_by_target() {
        let lines = Lines::default();
        let to = lines.clone();
        let filter = "info,haproxy_nomad_sidecar::telemetry=off".parse().unwrap();
        with_default(plain(filter, move || to.clone()), log_something);
        assert_eq!(lines.text(), "");
    }
}
