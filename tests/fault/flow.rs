//! Owns a conversation that goes on while something breaks: numbered datagrams from host 1 that the server sends back, and what
//! became of them.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use mape_tests::{lab::Lab, plan, traffic::numbered};

const HOST_1: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 168, 10, 2);
const MOMENT: Duration = Duration::from_secs(1);
/// What is on its way when the last one was sent has so long to come back.
const QUIET: Duration = Duration::from_millis(600);

/// A conversation that is going on.
pub(crate) struct Flow {
    enough: Arc<AtomicBool>,
    sending: JoinHandle<(u64, Duration)>,
    returning: JoinHandle<Result<()>>,
    hearing: JoinHandle<Result<(u64, Duration)>>,
    /// Host 1 as the server sees it.
    pub(crate) seen_from: std::net::SocketAddr,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    /// Sent, and not heard back.
    pub(crate) lost: u64,
    /// The longest time that nothing was sent, which the scheduler of a busy machine decides.
    pub(crate) pause: Duration,
    /// The longest time that nothing came.
    pub(crate) silence: Duration,
}

impl Flow {
    /// Begins: so many datagrams a second, from and to a port.
    pub(crate) fn start(lab: &Lab, port: u16, rate: u32) -> Result<Self> {
        let far = lab.node("internet")?.enter(|| numbered::socket((plan::SERVER, port)))?;
        let near = lab.node("host1")?.enter(|| numbered::socket((HOST_1, port)))?;
        near.connect((plan::SERVER, port))?;
        let (seen_from, _) = numbered::greet(&near, &far)?;
        let enough = Arc::new(AtomicBool::new(false));
        let (again, is_over) = (near.try_clone()?, Arc::clone(&enough));
        let sending = thread::spawn(move || send(&near, &is_over, rate));
        let is_over = Arc::clone(&enough);
        let returning = thread::spawn(move || send_back(&far, &is_over));
        let is_over = Arc::clone(&enough);
        let hearing = thread::spawn(move || hear(&again, &is_over));
        Ok(Self {
            enough,
            sending,
            returning,
            hearing,
            seen_from,
        })
    }

    /// Ends it a moment later, so that also what breaks late is seen.
    pub(crate) fn finish(self) -> Result<Seen> {
        thread::sleep(MOMENT);
        self.enough.store(true, Ordering::Relaxed);
        let (sent, pause) = self.sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        self.returning.join().map_err(|_| anyhow!("the server panicked"))??;
        let (heard, silence) = self.hearing.join().map_err(|_| anyhow!("the hearer panicked"))??;
        if sent == 0 {
            bail!("nothing was sent");
        }
        Ok(Seen {
            sent,
            lost: sent - heard,
            pause,
            silence,
        })
    }
}

/// Sends numbers; after a pause that the scheduler made it catches up in small bursts.
fn send(near: &UdpSocket, enough: &AtomicBool, rate: u32) -> (u64, Duration) {
    let begin = Instant::now();
    let (mut pause, mut last) = (Duration::ZERO, begin);
    let mut sent = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX).min(sent + 16);
        while sent < due {
            // What an earlier one was answered with by ICMP is no fault of this one: it is sent again.
            if near
                .send(&sent.to_be_bytes())
                .or_else(|_| near.send(&sent.to_be_bytes()))
                .is_err()
            {
                break;
            }
            sent += 1;
            pause = pause.max(last.elapsed());
            last = Instant::now();
        }
        thread::sleep(Duration::from_micros(500));
    }
    (sent, pause)
}

fn send_back(far: &UdpSocket, enough: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 64];
    let mut last = Instant::now();
    while !enough.load(Ordering::Relaxed) || last.elapsed() < QUIET {
        if let Ok((len, from)) = far.recv_from(&mut buffer)
            && len == 8
        {
            last = Instant::now();
            far.send_to(&buffer[..len], from).context("the server cannot answer")?;
        }
    }
    Ok(())
}

/// How many different numbers come, and the longest pause between two.
fn hear(near: &UdpSocket, enough: &AtomicBool) -> Result<(u64, Duration)> {
    let mut buffer = [0; 64];
    let mut is_heard: Vec<bool> = Vec::new();
    let (mut heard, mut silence, mut last) = (0, Duration::ZERO, Instant::now());
    let mut end = None;
    loop {
        if enough.load(Ordering::Relaxed) && *end.get_or_insert_with(|| Instant::now() + 2 * QUIET) < Instant::now() {
            return Ok((heard, silence));
        }
        let Ok(len) = near.recv(&mut buffer) else { continue };
        let Some(number) = buffer[..len].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)) else {
            continue;
        };
        let number = usize::try_from(number)?;
        if number >= is_heard.len() {
            is_heard.resize(number + 1, false);
        }
        if !std::mem::replace(&mut is_heard[number], true) {
            heard += 1;
            silence = silence.max(last.elapsed());
            last = Instant::now();
        }
    }
}
