//! A real browser without a screen: Chromium, driven by chromedriver over plain HTTP (`WebDriver` and Chrome's own protocol).

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{haproxy::free_port, sidecar::within};

/// It fetches nothing but what it is sent to.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];
/// For a busy machine to start a browser.
const STARTS: Duration = Duration::from_mins(1);

/// A browser with one page. It ends when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts one; nothing where there is none, unless `CHROMIUM_REQUIRED=1`.
    pub(crate) fn start() -> Option<Self> {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                let is_required = env::var("CHROMIUM_REQUIRED").is_ok_and(|text| text == "1");
                let install = "apt-get install chromium chromium-driver";
                assert!(
                    !is_required,
                    "chromedriver cannot be run ({error}): {install}"
                );
                eprintln!(
                    "NO CHROMEDRIVER on PATH ({error}): the page is not opened in a browser; {install}"
                );
                return None;
            }
        };
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            profile: TempDir::with_prefix("browser").expect("the temporary directory is writable"),
        };
        within(STARTS, "chromedriver answers", || {
            browser.exchange("GET", "/status", None).ok()
        });
        let profile = format!("--user-data-dir={}", browser.profile.path().display());
        let flags: Vec<_> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = browser.ask("POST", "/session", Some(&capabilities));
        let session = answer["sessionId"].as_str().expect("a session has an ID");
        browser.session = format!("/session/{session}");
        Some(browser)
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.of_session("/url", &json!({ "url": url }));
    }

    /// What a function of this body returns in the page.
    pub(crate) fn run(&self, body: &str) -> Value {
        self.of_session("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// Runs this in each page before anything of its own.
    pub(crate) fn before_each_page(&self, script: &str) {
        self.chrome(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({ "source": script }),
        );
    }

    /// The screen: its width, and `light` or `dark`.
    pub(crate) fn screen(&self, width: u32, scheme: &str) {
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.chrome("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.chrome("Emulation.setEmulatedMedia", &scheme);
    }

    /// Keeps the whole page as a picture, in the directory that `PAGE_PICTURES` names, if it names one.
    pub(crate) fn keep(&self, name: &str) {
        let Some(folder) = env::var_os("PAGE_PICTURES") else {
            return;
        };
        let all = json!({"captureBeyondViewport": true});
        let picture = self.chrome("Page.captureScreenshot", &all);
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("base64"));
        let path = Path::new(&folder).join(format!("{name}.png"));
        fs::write(path, bytes.expect("base64")).expect("the directory is there");
    }

    /// What the page wrote to its console, or the browser said of it, since this was asked last.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.of_session("/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list");
        entries
            .iter()
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    fn chrome(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.of_session("/goog/cdp/execute", &body)
    }

    fn of_session(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), Some(body))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, mut answer) = self
            .exchange(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(status, 200, "{method} {path}: {answer:#}");
        answer["value"].take()
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(STARTS))?;
        let body = body.map_or(String::new(), Value::to_string);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "no answer of a driver");
        // It keeps the connection open all the same.
        let (mut status, mut length) = (None, 0);
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok());
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| broken())?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).map_err(|_| broken())?;
        Ok((status.ok_or_else(broken)?, body))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session.
        drop(self.exchange("DELETE", &self.session, None));
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
