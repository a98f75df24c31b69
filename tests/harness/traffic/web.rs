//! Owns the transfer of a large file with curl: every byte must arrive, in both directions.

use std::{fs::File, io::Write, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{iperf::Direction, noise::Noise};
use crate::{lab::Lab, plan, process::run, servers::Servers};

const LIMIT: Duration = Duration::from_mins(2);

/// What one transfer showed.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Size of the file.
    pub bytes: u64,
    /// Payload, in bits per second, by curl's own clock.
    pub bits_per_second: f64,
    /// Hash of the file before.
    pub sent_sha256: String,
    /// Hash of what arrived.
    pub received_sha256: String,
}

impl Transfer {
    /// Whether every byte arrived.
    pub fn is_intact(&self) -> bool {
        self.sent_sha256 == self.received_sha256
    }
}

/// Downloads or uploads a file of so many mebibytes of random-looking bytes.
///
/// # Errors
/// When curl fails.
pub fn transfer(lab: &Lab, servers: &Servers, host: &str, direction: Direction, mebibytes: u64) -> Result<Transfer> {
    let name = format!("{host}-{direction:?}.bin");
    let (far, near) = (servers.files().join(&name), lab.folder().join(&name));
    let url = format!("http://{}/{name}", plan::SERVER);
    let near_name = near.to_string_lossy().into_owned();
    let mut words = vec![
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "90",
    ];
    words.extend(["--write-out", "%{speed_download} %{speed_upload}"]);
    let (source, target) = match direction {
        Direction::Down => {
            words.extend(["--output", &near_name, &url]);
            (&far, &near)
        }
        Direction::Up => {
            // Without the header curl would first wait for a permission that the small server never gives.
            words.extend(["--header", "Expect:", "--upload-file", &near_name, &url]);
            (&near, &far)
        }
    };
    write_noise(source, mebibytes)?;
    let finished = lab.exec(host, &words, LIMIT)?.success()?;
    let speeds = finished
        .stdout
        .split_whitespace()
        .filter_map(|word| word.parse::<f64>().ok());
    let transfer = Transfer {
        bytes: mebibytes << 20,
        bits_per_second: speeds.fold(0.0, f64::max) * 8.0,
        sent_sha256: sha256(source)?,
        received_sha256: sha256(target)?,
    };
    for file in [source, target] {
        std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(transfer)
}

fn write_noise(path: &Path, mebibytes: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut noise = Noise::default();
    for _ in 0..mebibytes {
        file.write_all(&noise.block(1 << 20))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let finished = run(Command::new("sha256sum").arg(path), LIMIT)?.success()?;
    Ok(finished.stdout.split_whitespace().next().unwrap_or_default().to_owned())
}
