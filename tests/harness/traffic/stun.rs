//! Owns the classification of the NAT by a real client: coturn's `turnutils_natdiscovery` against coturn's server (RFC 5780).

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    lab::Lab,
    plan,
    process::{Background, wait_for},
};

/// Where the server listens; the next port is its alternate one.
const PORT: u16 = 3478;
/// Each answer that a filter keeps back costs the client some seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// A STUN server on two addresses and two ports; dropped, it stops.
#[derive(Debug)]
pub struct Server(#[expect(dead_code, reason = "it runs as long as this is kept")] Background);

/// What the client calls the NAT, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// As "NAT with Endpoint Independent Mapping!".
    pub mapping: String,
    /// As "NAT with Address Dependent Filtering!".
    pub filtering: String,
}

impl Server {
    /// Starts coturn's server in the node `internet`, without relaying, authentication or remote control.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(lab: &Lab) -> Result<Self> {
        let [first, second] = plan::STUN;
        let folder = lab.folder().display();
        let line = format!(
            "turnserver -n --stun-only --no-auth --no-tls --no-dtls --no-tcp --no-cli --relay-threads 1 \
             --listening-ip {first} --listening-ip {second} --listening-port {PORT} --alt-listening-port {} \
             --log-file stdout --pidfile {folder}/turnserver.pid --userdb {folder}/turnserver.db",
            PORT + 1
        );
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut program = lab.spawn("internet", &words)?;
        let internet = lab.node("internet")?;
        wait_for("turnserver", Duration::from_secs(10), || {
            anyhow::ensure!(program.is_running(), "turnserver has ended");
            let sockets = internet.tool("ss -Hlun")?;
            let listens = |port: u16| {
                plan::STUN
                    .iter()
                    .all(|address| sockets.contains(&format!("{address}:{port}")))
            };
            Ok(listens(PORT) && listens(PORT + 1))
        })?;
        Ok(Self(program))
    }

    /// Runs the client in a host.
    ///
    /// # Errors
    /// When it fails, or does not come to a conclusion about both.
    pub fn classify(&self, lab: &Lab, host: &str) -> Result<Behaviour> {
        let server = plan::STUN[0].to_string();
        let words = ["turnutils_natdiscovery", "-m", "-f", "-p", &PORT.to_string(), &server];
        let said = lab.exec(host, &words, LIMIT)?.success()?.stdout;
        let sentence = |about: &str| {
            let found = said.lines().find(|line| line.contains("NAT") && line.ends_with(about));
            found
                .map(str::to_owned)
                .with_context(|| format!("turnutils_natdiscovery has no sentence \"... {about}\": {said}"))
        };
        Ok(Behaviour {
            mapping: sentence("Mapping!")?,
            filtering: sentence("Filtering!")?,
        })
    }
}
